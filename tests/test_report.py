import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from ebmjax import config
from ebmjax.eval import charts, compare, report, sections, summary
from ebmjax.eval import run as evaluation
from ebmjax.eval.found import npz, picture


def reliability(confidence=0.9, accuracy=0.8):
    return {
        "edges": [0.0, 0.5, 1.0],
        "counts": [0, 100],
        "accuracy": [None, accuracy],
        "confidence": [None, confidence],
    }


def results(name="a run", seed=0, ece=0.1, accuracy=0.8, objective=None):
    """An eval.json as the parts would write it, with made-up numbers."""
    errors = "ece_equal_mass mce rms_ce classwise_ece ece_20_bins ng_ebm_midpoint_ece"
    errors = dict.fromkeys(errors.split(), ece) | {"nll": 0.5, "brier": 0.2}
    errors |= {"ece": ece, "reliability": reliability()}
    scores = {
        score: {
            "auroc": 0.7 + 0.01 * i,
            "aupr_in": 0.5,
            "aupr_out": 0.4,
            "fpr95_in": 0.3,
            "fpr95_out": 0.2,
        }
        for i, score in enumerate(list(summary.SCORES)[:5])
    }
    rows = [
        {"eps": 4 / 255, "eps_text": "4/255", "accuracy": 0.6},
        {"eps": 8 / 255, "eps_text": "8/255", "accuracy": 0.25},
    ]
    clean = {"eps": 0.0, "eps_text": "0", "accuracy": 0.7}
    common = {"step": 7, "seconds": 1.0, "settings": {}}
    return {
        "run": {
            "name": name,
            "step": 7,
            "recoveries": 1,
            "checkpoint": "last",
            "ema": False,
            "data": "digits",
            "seed": seed,
            "class_names": ["0", "1"],
            "image_shape": [8, 8, 1],
            "objective": objective or {"cross_entropy": 1.0, "p_x": 0.5},
            "model": {"name": "wide_resnet", "depth": 10, "width": 2},
        },
        "classification": common
        | {
            "num_images": 100,
            "accuracy": accuracy,
            "nll": 0.5,
            "brier": 0.2,
            "ece": ece,
            "num_bins": 15,
            "files": [],
        },
        "calibration": common
        | {
            "num_images": 100,
            "num_bins": 15,
            "as_trained": errors,
            "temperature": errors | {"value": 1.5, "num_valid": 50},
            "files": [],
        },
        "ood": common
        | {
            "num_images": 100,
            "noise_std": 0.03,
            "refine_steps": 0,
            "sets": {
                "/data/other.npz": {"num_images": 30, "scores": scores},
                "<b>svhn</b>": {"error": "is not prepared"},
            },
            "mean": scores,
            "pictured": ["test"],
            "files": ["ood_examples.png", "ood_scores.npz"],
        },
        "attacks": common
        | {
            "num_images": 20,
            "clean_accuracy": 0.8,
            "losses": ["cross_entropy", "margin"],
            "num_steps": 40,
            "num_restarts": 1,
            "step_share": 0.1,
            "norms": {
                "linf": {
                    "sweep": rows,
                    "pictured_eps": "8/255",
                    "distances": [0.0, 0.02, 0.05, None],
                    "max_eps": 32 / 255,
                    "judge": {"accuracies": [0.6, 0.3], "confirmed": True},
                }
            },
            "refined": {
                "1": {
                    "num_images": 5,
                    "num_copies": 2,
                    "norms": {
                        "linf": {
                            "noise_std": 0.03,
                            "gradients": {
                                "true": [clean, *rows],
                                "straight_through": [
                                    clean,
                                    rows[0],
                                    rows[1] | {"accuracy": 0.2},
                                ],
                            },
                        }
                    },
                }
            },
            "distal": [
                {
                    "class": name,
                    "confidence": 0.95,
                    "num_steps": 12,
                    "log_density": 3.0,
                    "log_density_of_noise": 1.5,
                }
                for name in "01"
            ],
            "settings": {"distal_step_size": 0.2, "distal_confidence": 0.9},
            "files": ["attack_linf.png", "distal.npz", "distal.png"],
        },
        "samples": common
        | {
            "num_chains": 20,
            "num_steps": 2,
            "step_size": 1.0,
            "noise_std": 0.01,
            "trace": {"q05": [1, 0, -1], "median": [2, 1, 0], "q95": [3, 2, 1]},
            "class_columns": ["0", "1"],
            "neighbours_of": "chains",
            "scores": {
                "extractor": "this run",
                "num_features": 16,
                "num_samples": 20,
                "num_reference": 60,
                "selected": False,
                "sets": {
                    kind: {
                        "frechet_distance": distance,
                        "kid": {"mean": 0.1, "std": 0.01},
                        "inception_score": {"mean": 2.0, "std": 0.1},
                    }
                    for kind, distance in (("test", 6.25), ("chains", 90.5))
                },
            },
            "files": ["chains.png"],
        },
    }


def write_run(folder, found, c=None):
    """A run directory as an evaluation leaves it, without its checkpoints."""
    folder = pathlib.Path(folder)
    (folder / "eval").mkdir(parents=True)
    c = c or config.default()
    c.seed = found["run"]["seed"]
    (folder / "config.json").write_text(config.to_json(c))
    (folder / "eval.json").write_text(evaluation.to_json(found))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 8, 8, 1)).astype(np.uint8)
    names = "ood_examples attack_linf distal chains chains_by_class neighbours"
    names += " test_likely test_unlikely test_sure test_unsure"
    for name in names.split():
        (folder / "eval" / f"{name}.png").write_bytes(picture(images, 5))
    arrays = {
        f"{kind}/{score}": rng.normal(size=50)
        for kind in ("test", "/data/other.npz")
        for score in list(summary.SCORES)[:5]
    }
    (folder / "eval" / "ood_scores.npz").write_bytes(npz(arrays))
    (folder / "eval" / "distal.npz").write_bytes(npz({"x": images[:2]}))
    energies = {kind: rng.normal(size=50) for kind in ("test", "chains", "noise")}
    (folder / "eval" / "energies.npz").write_bytes(npz(energies))
    return folder


class Page(html.parser.HTMLParser):
    """What is in a page, and whether its elements close in order."""

    VOID = ("meta", "img", "br", "use", "path", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.addresses = [], [], [], []
        self.feed(text)
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def rendered(tmp_path, found):
    folder = write_run(tmp_path / "run", found)
    return Page(report.render(found, epath.Path(folder) / "eval"))


# --- the report ---------------------------------------------------------------


def test_the_page_says_what_eval_json_says(tmp_path):
    page = rendered(tmp_path, results())
    for said in (
        "WRN-10-2 on digits, cross entropy + 0.5 p(x)",
        "80.0% of 100 test images",
        "ECE 10.0% over-confident: 90.0% sure, 80.0% right",
        "hardest is other.npz with 0.700",
        "25.0% right at L∞ 8/255 of 20 images, clean 80.0%",
        "foolbox finds no more",
        "FD 90.5",
        "test images have 6.25",
        "95% sure, 12 steps, log p +3.0 (+1.5)",
        "Median distance of the nearest mistake: 0.035",
    ):
        assert said in page.text, said
    assert page.tags.count("svg") > 8 and page.tags.count("img") > 8


def test_the_page_needs_nothing_but_itself(tmp_path):
    page = rendered(tmp_path, results())
    assert page.addresses
    for address in page.addresses:
        assert address.startswith(("data:image/png;base64,", "#"))
    assert "script" not in page.tags and "link" not in page.tags


def test_ids_are_unique_so_that_charts_do_not_clip_each_other(tmp_path):
    found = results()
    folder = write_run(tmp_path / "run", found)
    text = report.render(found, epath.Path(folder) / "eval")
    clips = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(clips) == len(set(clips)) > 5


def test_names_from_outside_are_escaped(tmp_path):
    found = results(name="<script>alert(1)</script>")
    page = rendered(tmp_path, found)
    assert "script" not in page.tags and "b" in page.tags
    assert "OOD set <b>svhn</b>: is not prepared" in page.text


def test_a_failed_part_is_told_with_its_reason_and_an_old_one_with_its_step(tmp_path):
    found = results()
    found["attacks"] = {"error": "RuntimeError: out of memory", "step": 7}
    found["samples"]["step"] = 3
    page = rendered(tmp_path, found)
    assert "Does it withstand attacks? failed RuntimeError: out of memory" in page.text
    assert "samples is of step 3, an older checkpoint" in page.text


def test_a_picture_that_is_gone_costs_its_part_only(tmp_path):
    found = results()
    folder = write_run(tmp_path / "run", found)
    (folder / "eval" / "ood_scores.npz").unlink()
    page = Page(report.render(found, epath.Path(folder) / "eval"))
    assert "ood cannot be drawn, evaluate it again" in page.text
    assert "Calibration errors" in page.text


def test_nothing_evaluated_is_a_page_too(tmp_path):
    page = Page(report.render({"run": results()["run"]}, epath.Path(tmp_path)))
    assert "Nothing has been evaluated yet" in page.text


def test_main_charts_are_files_of_their_own(tmp_path):
    folder = write_run(tmp_path / "run", results())
    evaluation.draw(str(folder))
    for name in ("reliability", "ood_log_density", "accuracy_linf", "energies"):
        assert (folder / "eval" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "</html>" in (folder / "report.html").read_text()


def test_survival_counts_images_whose_nearest_mistake_is_farther():
    eps, share = sections.survival([0.0, 0.02, 0.05, None], 0.1)
    by_eps = dict(zip(np.round(eps, 3), share, strict=True))
    assert by_eps[0.0] == 0.75  # one is wrong already
    assert by_eps[0.02] == 0.5 and by_eps[0.049] == 0.5
    assert by_eps[0.1] == 0.25


def test_charts_follow_the_colours_of_the_page():
    text = charts.svg(charts.trace([2, 1], [1, 0], [3, 2]), "trace")
    assert "var(--series-0, #0072b2)" in text and "var(--ink" in text
    assert not re.search(r"(?<!, )#0072b2", text)
    assert text == charts.svg(charts.trace([2, 1], [1, 0], [3, 2]), "trace")


# --- the comparison -------------------------------------------------------------


def runs_to_compare(tmp_path):
    plain = config.default()
    jem = config.default()
    jem.objective.p_x = 1.0
    made = {
        "jem_s0": (results("jem_s0", 0, ece=0.04, accuracy=0.8), jem),
        "jem_s1": (results("jem_s1", 1, ece=0.06, accuracy=0.9), jem),
        "plain": (
            results("plain", 0, ece=0.2, accuracy=0.95, objective={"cross_entropy": 1}),
            plain,
        ),
    }
    return [
        str(write_run(tmp_path / name, found, c)) for name, (found, c) in made.items()
    ]


def test_seeds_of_one_config_become_mean_and_deviation(tmp_path):
    numbers = compare.compared(compare.grouped(runs_to_compare(tmp_path)))
    assert {k: len(v) for k, v in numbers["groups"].items()} == {
        "jem_s, 2 seeds": 2,
        "plain": 1,
    }
    row = numbers["measures"]["accuracy"]["groups"]
    assert row["jem_s, 2 seeds"]["mean"] == pytest.approx(0.85)
    assert row["jem_s, 2 seeds"]["std"] == pytest.approx(0.1 / 2**0.5)
    assert row["plain"] == {"mean": 0.95, "std": None, "num_runs": 1}


def test_ratio_of_eces_is_to_the_plain_classifier(tmp_path):
    groups = compare.grouped(runs_to_compare(tmp_path))
    ratio = compare.compared(groups)["ece_ratio"]
    assert ratio["baseline"] == "plain"
    assert ratio["times_smaller"]["jem_s, 2 seeds"] == pytest.approx(0.2 / 0.05)


def test_comparison_writes_a_page_numbers_and_a_table(tmp_path):
    out = tmp_path / "out"
    text = compare.write(runs_to_compare(tmp_path), str(out))
    assert "85.00% ± 7.07%" in text
    assert "that of jem_s, 2 seeds is 4.00 times smaller than that of plain." in text
    page = Page((out / "report.html").read_text())
    assert "85.00% ± 7.07%" in page.text and page.tags.count("svg") == 2
    assert "base64" in page.addresses[0] or page.addresses[0].startswith("#")
    assert json.loads((out / "compare.json").read_text())["measures"]["accuracy"]


def test_own_features_are_not_compared(tmp_path):
    numbers = compare.compared(compare.grouped(runs_to_compare(tmp_path)))
    rows = {row.cells[0]: row for row in compare._rows(numbers)}
    (own,) = (name for name in rows if "features of this run, chains" in name)
    assert rows[own].best == ()
    assert rows["accuracy"].best == (2,)
    assert rows["ECE, 15 bins"].best == (1,)


def test_an_unfinished_attack_part_does_not_stop_the_comparison(tmp_path):
    workdirs = runs_to_compare(tmp_path)
    path = pathlib.Path(workdirs[2], "eval.json")
    found = json.loads(path.read_text())
    found["attacks"] = {"error": "OOM"}
    path.write_text(json.dumps(found))
    assert "–" in compare.write(workdirs, str(tmp_path / "out"))


@pytest.mark.parametrize("missing", ["config.json", "eval.json"])
def test_what_cannot_be_compared_is_named(tmp_path, missing):
    workdirs = runs_to_compare(tmp_path)
    pathlib.Path(workdirs[1], missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"jem_s1 .*{missing}"):
        compare.write(workdirs, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_one_run_is_no_comparison(tmp_path):
    with pytest.raises(ValueError, match="two runs or more"):
        compare.write([str(tmp_path)], str(tmp_path / "out"))


# --- the command line -------------------------------------------------------------


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "ebmjax.eval", *args], capture_output=True, text=True
    )


def test_compare_on_the_command_line(tmp_path):
    out = tmp_path / "out"
    done = command("--compare", *runs_to_compare(tmp_path), f"--workdir={out}")
    assert done.returncode == 0, done.stderr
    assert "ECE, 15 bins" in done.stdout and (out / "report.html").exists()


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["--eval.ood.stes=1"], "error: --eval: 'stes' Did you mean \"sets\""),
        ([], "error: --workdir is missing: a run directory"),
        (["--workdir=no"], "error: no is not a run directory: it has no config.json"),
        (["--workdir=no", "else"], "error: what is 'else'?"),
    ],
)
def test_mistakes_on_the_command_line_are_told_in_one_sentence(args, sentence):
    done = command(*args)
    assert done.returncode == 1 and done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1 and not done.stdout


# --- in words ---------------------------------------------------------------------


def test_a_refined_classifier_counts_by_the_attack_that_found_more():
    measures = {m.name: m for m in summary.measures(results())}
    assert measures["JEM-1, accuracy at L∞ 8/255"].value == 0.2


def test_table_has_every_measure_and_every_failure():
    found = results()
    found["samples"] = {"error": "OSError: no space", "step": 7}
    text = summary.table(found)
    assert re.search(r"^accuracy +80.00%$", text, re.MULTILINE)
    assert re.search(r"^Can it make data\? +failed: OSError: no space$", text, re.M)
    assert re.search(r"^ood: <b>svhn</b> +failed: is not prepared$", text, re.M)


def test_over_confidence_is_called_so():
    part = {
        "num_bins": 2,
        "as_trained": {"ece": 0.4, "reliability": reliability(0.9, 0.5)},
        "temperature": {"skipped": "for no reason"},
    }
    (verdict,) = summary.verdicts({"calibration": part})
    assert verdict.answer == "ECE 40.0%"
    assert verdict.detail == "over-confident: 90.0% sure, 50.0% right; 2 bins"
