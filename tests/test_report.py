import re

import numpy as np
from etils import epath
from eval_runs import Page, reliability, results, write_run

from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.report import charts, run_report
from ebmjax.eval.tasks import TASKS, attacks_report
from ebmjax.eval.tasks.ood_report import set_labels


def rendered(tmp_path, numbers):
    folder = write_run(tmp_path / "run", numbers)
    return Page(run_report.render(numbers, epath.Path(folder) / "eval")[0])


# --- the report ---------------------------------------------------------------


def test_the_page_says_what_eval_json_says(tmp_path):
    page = rendered(tmp_path, results())
    for said in (
        "WRN-10-2 on digits, cross entropy + 0.5 p(x)",
        "80.0% of 100 test examples",
        "ECE 10.0% over-confident: 90.0% mean confidence, 80.0% accuracy",
        "the hardest is other.npz with 0.700",
        "25.0% accuracy at L∞ 8/255 on 20 images, clean 80.0%",
        "foolbox finds no more",
        "FD 90.5",
        "test images have 6.25",
        "95% sure, 12 steps, log p +3.0 (+1.5)",
        "Median distance of the nearest mistake: 0.035",
        "-2.5 nats mean change of E(x) under PGD at L∞ 8/255, of E(x, label) -2.5",
        "clean against attacked, 0.125",
        "75.0% mean p(class | x) after 50 steps towards another class",
        "75% sure, distance 1.25, log p +4.00 (+3.00)",
        "– sure, distance –, log p – (–)",
        "1 of 2 chains diverged",
    ):
        assert said in page.text, said
    assert page.tags.count("svg") > 8 and page.tags.count("img") > 8


def test_the_page_is_self_contained(tmp_path):
    page = rendered(tmp_path, results())
    assert page.addresses
    for address in page.addresses:
        assert address.startswith(("data:image/png;base64,", "#"))
    assert "script" not in page.tags and "link" not in page.tags


def test_ids_are_unique_so_that_charts_do_not_clip_each_other(tmp_path):
    numbers = results()
    folder = write_run(tmp_path / "run", numbers)
    text, _ = run_report.render(numbers, epath.Path(folder) / "eval")
    clips = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(clips) == len(set(clips)) > 5


def test_names_from_outside_are_escaped(tmp_path):
    numbers = results(name="<script>alert(1)</script>")
    page = rendered(tmp_path, numbers)
    assert "script" not in page.tags and "b" in page.tags
    assert "ood: <b>svhn</b> failed: is not prepared" in page.text


def test_the_page_names_the_reason_of_a_failure_and_the_step_of_old_numbers(tmp_path):
    numbers = results()
    numbers["attacks"] = {"error": "RuntimeError: out of memory", "step": 7}
    numbers["samples"]["step"] = 3
    page = rendered(tmp_path, numbers)
    assert "Adversarial robustness failed RuntimeError: out of memory" in page.text
    assert "samples is of step 3, another checkpoint: evaluate it again" in page.text


def test_a_missing_picture_leaves_out_only_the_section_of_its_task(tmp_path):
    numbers = results()
    folder = write_run(tmp_path / "run", numbers)
    (folder / "eval" / "ood_scores.npz").unlink()
    page = Page(run_report.render(numbers, epath.Path(folder) / "eval")[0])
    assert "ood_scores.npz is missing: evaluate it again" in page.text
    assert "Calibration errors" in page.text


def test_nothing_evaluated_is_a_page_too(tmp_path):
    text, _ = run_report.render({"run": results()["run"]}, epath.Path(tmp_path))
    page = Page(text)
    assert "Nothing has been evaluated yet" in page.text


def test_main_charts_are_files_of_their_own(tmp_path):
    folder = write_run(tmp_path / "run", results())
    evaluation.draw(str(folder))
    for name in ("reliability", "ood_log_density", "accuracy_linf", "energies"):
        assert (folder / "eval" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "</html>" in (folder / "report.html").read_text()


def test_a_chart_does_not_replace_a_picture_of_its_name(tmp_path):
    numbers = results()
    numbers["attacks"]["files"].append("accuracy_linf.png")
    folder = write_run(tmp_path / "run", numbers)
    picture = folder / "eval" / "accuracy_linf.png"
    picture.write_bytes(b"of a task")
    evaluation.draw(str(folder))
    assert picture.read_bytes() == b"of a task"
    assert (folder / "eval" / "reliability.png").exists()


def test_survival_counts_images_whose_nearest_mistake_is_farther():
    eps, share = attacks_report.survival([0.0, 0.02, 0.05, None], 0.1)
    by_eps = dict(zip(np.round(eps, 3), share, strict=True))
    assert by_eps[0.0] == 0.75  # one is wrong already
    assert by_eps[0.02] == 0.5 and by_eps[0.049] == 0.5
    assert by_eps[0.1] == 0.25


def test_charts_follow_the_colours_of_the_page():
    text = charts.svg(charts.trace([2, 1], [1, 0], [3, 2]), "trace")
    assert "var(--series-0, #0072b2)" in text and "var(--ink" in text
    assert not re.search(r"(?<!, )#0072b2", text)
    assert text == charts.svg(charts.trace([2, 1], [1, 0], [3, 2]), "trace")


def test_every_number_is_in_the_glossary_of_its_task():
    numbers = results()
    for name, task in TASKS.items():
        terms = [x.term.lower() for x in task.glossary]
        parts = [part for term in terms for part in re.split(", | and ", term)]
        for measure in task.measures(numbers[name]) if name in numbers else ():
            said = measure.name.lower().replace(" at ", " at eps ")
            assert any(part in said for part in parts), measure.name
        assert all(x.text.endswith(".") for x in task.glossary)


def test_the_glossary_has_the_tasks_of_the_page_and_each_term_once(tmp_path):
    numbers = results()
    del numbers["samples"]
    page = rendered(tmp_path, numbers)
    assert "bins of equally wide confidence" in page.text
    assert "Croce & Hein (2020)" in page.text and "Salimans" not in page.text
    terms = [x.term for x in run_report.definitions(TASKS)]
    assert len(terms) == len(set(terms)) > 30


# --- in words ---------------------------------------------------------------------


def test_a_refined_classifier_counts_by_the_attack_that_found_more():
    measures = {m.name: m for m in run_report.measures(results())}
    assert measures["JEM-1, accuracy at L∞ 8/255"].value == 0.2


def test_table_has_every_measure_and_every_failure():
    numbers = results()
    numbers["samples"] = {"error": "OSError: no space", "step": 7}
    text = run_report.table(numbers)
    assert re.search(r"^accuracy +80.00%$", text, re.MULTILINE)
    assert re.search(r"^samples +failed: OSError: no space$", text, re.M)
    assert re.search(r"^ood: <b>svhn</b> +failed: is not prepared$", text, re.M)


def test_over_confidence_is_called_so():
    part = {
        "num_bins": 2,
        "as_trained": {"ece": 0.4, "reliability": reliability(0.9, 0.5)},
        "temperature": {"skipped": "for no reason"},
    }
    (verdict,) = run_report.summaries({"calibration": part})
    assert verdict.answer == "ECE 40.0%"
    assert verdict.detail == (
        "over-confident: 90.0% mean confidence, 50.0% accuracy; 2 bins"
    )


def test_a_difference_within_chance_has_no_direction():
    """Of 100 examples; two standard errors at 86 % are 6.9 %, at 89 % 6.3 %."""
    for confidence, word in ((0.73, "neither"), (0.86, "neither"), (0.89, "over-")):
        part = {
            "num_bins": 2,
            "as_trained": {"ece": 0.1, "reliability": reliability(confidence, 0.8)},
            "temperature": {"skipped": "for no reason"},
        }
        (verdict,) = run_report.summaries({"calibration": part})
        assert verdict.detail.startswith(word)


# --- what own tasks and odd numbers look like ---------------------------------------


def test_a_task_that_the_program_does_not_know_is_a_table_of_its_numbers(tmp_path):
    numbers = {"run": results()["run"]}
    numbers["edges"] = {"mean": 0.25, "by_class": {"cat": 3}, "note": "of 9"}
    numbers["edges"] |= {"step": 7, "settings": {}, "seconds": 1.0, "files": []}
    page = rendered(tmp_path, numbers)
    assert "edges mean 0.25" in page.text.replace("value ", "")
    assert "by_class.cat 3 note of 9" in page.text and "seconds" not in page.text
    assert run_report.table(numbers).split() == [
        *("edges:", "mean", "0.250", "edges:", "by_class.cat", "3.000")
    ]


def test_a_skipped_task_says_why(tmp_path):
    numbers = {"run": results()["run"], "samples": {"skipped": "vectors", "step": 7}}
    assert "Samples skipped vectors" in rendered(tmp_path, numbers).text
    assert run_report.table(numbers) == "samples  skipped: vectors"


def test_our_own_mistake_in_a_section_is_not_the_fault_of_the_numbers(tmp_path, caplog):
    def broken(numbers, folder):
        return numbers["no such key"]

    numbers = {k: v for k, v in results().items() if k in ("run", "samples", "ood")}
    tasks = TASKS | {"samples": TASKS["samples"]._replace(section=broken)}
    folder = write_run(tmp_path / "run", numbers)
    text, _ = run_report.render(numbers, epath.Path(folder) / "eval", tasks)
    page = Page(text)
    assert "The section of samples failed: KeyError('no such key')" in page.text
    assert "evaluate it again" not in page.text and "ROC by log p(x)" in page.text
    assert "Traceback" in caplog.text  # whose place in the code is told


def test_numbers_of_another_version_leave_the_other_tasks_whole(tmp_path, caplog):
    numbers = results()
    numbers["attacks"] = {"step": 7, "settings": {}, "seconds": 1.0, "files": []}
    page = rendered(tmp_path, numbers)
    assert "the verdict failed: see the log" in page.text
    assert "The section of attacks failed" in page.text
    assert "80.0% of 100 test examples" in page.text and "ROC by log p(x)" in page.text
    assert re.search("^NLL +0.5", run_report.table(numbers), re.M)
    assert "the measures of task attacks failed" in caplog.text


def test_numbers_that_are_not_finite_are_shown_as_such(tmp_path):
    numbers = results()
    for part in (numbers["calibration"]["as_trained"], numbers["classification"]):
        part["nll"] = None
    numbers["samples"]["scores"]["sets"]["chains"]["frechet_distance"] = None
    numbers["samples"]["trace"]["q95"] = [3, None, 1]
    numbers["attacks"]["distal"][0]["log_density"] = None
    page = rendered(tmp_path, numbers)
    assert "The section of" not in page.text  # failed
    assert "NLL – nats" in page.text and "FD –" in page.text
    assert re.search("^NLL +not finite$", run_report.table(numbers), re.M)


def test_sets_of_one_name_in_different_folders_have_distinct_labels(tmp_path):
    assert set_labels(["uniform", "/a/b.npz", "./c/b.npz", "/d/test", "~/e.npz"]) == {
        "uniform": "uniform",
        "/a/b.npz": "/a/b.npz",
        "./c/b.npz": "./c/b.npz",
        "/d/test": "/d/test",  # for "test" is the test set
        "~/e.npz": "e.npz",
    }


def test_accuracies_by_gradients_with_nan_are_upper_bounds(tmp_path):
    numbers = results()
    numbers["attacks"]["norms"]["linf"]["num_nan_gradients"] = 3
    page = rendered(tmp_path, numbers)
    assert "the gradient of 3 images had NaN: an upper bound" in page.text


def test_numbers_of_other_parameters_are_marked(tmp_path):
    numbers = results()
    numbers["ood"]["settings"] = {"ema": True}
    page = rendered(tmp_path, numbers)
    assert "ood is of the averaged parameters: evaluate it again" in page.text


def test_a_chart_of_curves_shows_all_of_their_points():
    figure = charts.curves({"PGD": ([0.0, 8.0, 16.0], [1.0, 0.5, 0.1])}, "eps", "acc")
    low, high = figure.axes[0].get_xlim()
    assert low == 0 and high >= 16
