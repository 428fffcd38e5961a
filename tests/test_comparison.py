import json
import pathlib

import numpy as np
import pytest
from eval_runs import Page, results, write_run
from scipy import stats

from ebmjax import config
from ebmjax.eval.report import comparison, ranking

# --- the comparison -------------------------------------------------------------


def runs_to_compare(tmp_path):
    plain = config.default()
    jem = config.default()
    jem.objective.p_x = 1.0
    runs = {
        "jem_s0": (results("jem_s0", 0, ece=0.04, accuracy=0.8), jem),
        "jem_s1": (results("jem_s1", 1, ece=0.06, accuracy=0.9), jem),
        "plain": (
            results("plain", 0, ece=0.2, accuracy=0.95, objective={"cross_entropy": 1}),
            plain,
        ),
    }
    return [
        str(write_run(tmp_path / name, numbers, c))
        for name, (numbers, c) in runs.items()
    ]


def test_seeds_of_one_config_become_mean_and_deviation(tmp_path):
    numbers = comparison.compare(comparison.group_runs(runs_to_compare(tmp_path)))
    assert {k: len(v) for k, v in numbers["groups"].items()} == {
        "jem_s, 2 seeds": 2,
        "plain": 1,
    }
    row = numbers["measures"]["accuracy"]["groups"]
    assert row["jem_s, 2 seeds"]["mean"] == pytest.approx(0.85)
    assert row["jem_s, 2 seeds"]["std"] == pytest.approx(0.1 / 2**0.5)
    expected = {"mean": 0.95, "std": None, "num_runs": 1, "rank": 1, "p_value": None}
    assert row["plain"] == expected


def test_ratio_of_eces_is_to_the_plain_classifier(tmp_path):
    groups = comparison.group_runs(runs_to_compare(tmp_path))
    ratio = comparison.compare(groups)["ece_ratio"]
    assert ratio["baseline"] == "plain"
    assert ratio["times_smaller"]["jem_s, 2 seeds"] == pytest.approx(0.2 / 0.05)


def test_comparison_writes_a_page_numbers_and_a_table(tmp_path):
    out = tmp_path / "out"
    text = comparison.write(runs_to_compare(tmp_path), str(out))
    assert "85.00% ± 7.07%" in text
    assert "that of jem_s, 2 seeds is 4.00 times smaller than that of plain." in text
    page = Page((out / "report.html").read_text())
    assert "85.00% ± 7.07%" in page.text and page.tags.count("svg") == 2
    assert "base64" in page.addresses[0] or page.addresses[0].startswith("#")
    assert json.loads((out / "compare.json").read_text())["measures"]["accuracy"]


def test_own_features_are_not_compared(tmp_path):
    numbers = comparison.compare(comparison.group_runs(runs_to_compare(tmp_path)))
    rows = {row.cells[0]: row for row in comparison._rows(numbers)}
    (own,) = (name for name in rows if "features of this run, chains" in name)
    assert rows[own].best == ()
    assert rows["accuracy"].best == (2,)
    assert rows["ECE, 15 bins"].best == (1,)


def test_an_unfinished_attack_part_does_not_stop_the_comparison(tmp_path):
    workdirs = runs_to_compare(tmp_path)
    path = pathlib.Path(workdirs[2], "eval.json")
    numbers = json.loads(path.read_text())
    numbers["attacks"] = {"error": "OOM"}
    path.write_text(json.dumps(numbers))
    assert "–" in comparison.write(workdirs, str(tmp_path / "out"))


@pytest.mark.parametrize("missing", ["config.json", "eval.json"])
def test_what_cannot_be_compared_is_named(tmp_path, missing):
    workdirs = runs_to_compare(tmp_path)
    pathlib.Path(workdirs[1], missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"jem_s1 .*{missing}"):
        comparison.write(workdirs, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_one_run_is_no_comparison(tmp_path):
    with pytest.raises(ValueError, match="two runs or more"):
        comparison.write([str(tmp_path)], str(tmp_path / "out"))


def test_columns_have_distinct_labels_where_folders_have_one_name(tmp_path):
    plain, jem = config.default(), config.default()
    jem.objective.p_x = 1.0
    folders = []
    for name, c, accuracy in (("jem", jem, 0.8), ("classifier", plain, 0.4)):
        numbers = results("seed0", 0, accuracy=accuracy)
        folders.append(str(write_run(tmp_path / name / "seed0", numbers, c)))
    numbers = comparison.compare(comparison.group_runs(folders))
    assert {
        k: v["mean"] for k, v in numbers["measures"]["accuracy"]["groups"].items()
    } == {
        "seed0 (jem/seed0)": 0.8,
        "seed0 (classifier/seed0)": 0.4,
    }


def test_the_same_run_twice_is_refused(tmp_path):
    first, *_ = runs_to_compare(tmp_path)
    (tmp_path / "link").symlink_to(first)
    for other in (first, f"{first}/../jem_s0", str(tmp_path / "link")):
        with pytest.raises(ValueError, match="has the run .* twice"):
            comparison.group_runs([first, other])


def test_a_second_run_of_a_seed_is_not_a_second_seed(tmp_path):
    c = config.default()
    folders = [
        str(write_run(tmp_path / f"{i}", results(f"r{i}", seed), c))
        for i, seed in enumerate((0, 1, 0))
    ]
    groups = comparison.group_runs(folders)
    assert [len(group.workdirs) for group in groups] == [2, 1]
    assert [group.label for group in groups] == ["r, 2 seeds", "r2"]


def test_where_the_data_were_does_not_make_another_config(tmp_path):
    folders = []
    for seed, data_dir in enumerate(("/old", "/new")):
        c = config.default()
        c.data.data_dir = data_dir
        folders.append(str(write_run(tmp_path / data_dir[1:], results("r", seed), c)))
    assert len(comparison.group_runs(folders)) == 1


def test_what_is_not_finite_is_never_best(tmp_path):
    folders = runs_to_compare(tmp_path)
    path = pathlib.Path(folders[0], "eval.json")
    numbers = json.loads(path.read_text())
    numbers["calibration"]["as_trained"]["ece"] = None
    path.write_text(json.dumps(numbers))
    numbers = comparison.compare(comparison.group_runs(folders))
    rows = {row.cells[0]: row for row in comparison._rows(numbers)}
    assert rows["ECE, 15 bins"].cells[1:] == ["not finite", "20.00%"]
    assert rows["ECE, 15 bins"].best == (2,)
    assert comparison.write(folders, str(tmp_path / "out"))


def test_own_tasks_are_compared(tmp_path):
    folders = runs_to_compare(tmp_path)
    for i, folder in enumerate(folders):
        path = pathlib.Path(folder, "eval.json")
        own = {"size": i, "step": 7, "settings": {}, "files": []}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mine": own}))
    row = comparison.compare(comparison.group_runs(folders))["measures"]["mine: size"]
    assert [x["mean"] for x in row["groups"].values()] == [0.5, 2]


# --- ranks and the noise of seeds ------------------------------------------------


def spread(values):
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "num_runs": len(values)}


def test_ranks_count_those_that_are_better_and_ties_share_one():
    spreads = {
        k: spread([x]) for k, x in zip("abcd", (0.2, 0.9, 0.9, 0.5), strict=True)
    }
    spreads["e"] = {"mean": None, "std": None, "num_runs": 1}
    assert ranking.ranks(spreads, "higher") == {"a": 4, "b": 1, "c": 1, "d": 3}
    assert ranking.ranks(spreads, "lower") == {"a": 1, "b": 3, "c": 3, "d": 2}
    assert ranking.ranks(spreads, "") == {}


def test_seed_noise_is_judged_as_by_a_test_of_the_runs_themselves():
    a, b = [0.81, 0.84, 0.86], [0.90, 0.91, 0.95, 0.93]
    found = ranking.judged({"a": spread(a), "b": spread(b), "c": spread([0.99])}, "")
    assert all(x["rank"] is None and x["p_value"] is None for x in found.values())
    found = ranking.judged({"a": spread(a), "b": spread(b)}, "higher")
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert found["a"]["p_value"] == pytest.approx(expected) and expected < 0.01
    assert found["b"] == spread(b) | {"rank": 1, "p_value": None}


def test_of_single_runs_no_noise_is_known_and_of_equal_ones_there_is_none():
    assert ranking.p_value(spread([0.1]), spread([0.9, 0.8])) is None
    assert ranking.p_value(spread([0.5, 0.5]), spread([0.5, 0.5])) == 1
    assert ranking.p_value(spread([0.5, 0.5]), spread([0.75, 0.75])) == 0


def test_the_page_marks_ranks_and_differences_beyond_seed_noise(tmp_path):
    runs = []
    for name, p_x, accuracies in (
        ("jem", 1.0, (0.80, 0.81, 0.82)),
        ("far", 2.0, (0.60, 0.61, 0.62)),
        ("close", 3.0, (0.79, 0.81, 0.815)),
    ):
        c = config.default()
        c.objective.p_x = p_x
        for seed, accuracy in enumerate(accuracies):
            numbers = results(f"{name}{seed}", seed, accuracy=accuracy)
            runs.append(str(write_run(tmp_path / f"{name}{seed}", numbers, c)))
    text = comparison.write(runs, str(tmp_path / "out"))
    (row,) = (line for line in text.splitlines() if line.startswith("accuracy  "))
    assert [x for x in row.split() if x[0] == "#"] == ["#1", "#3*", "#2"]
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "61.00% ± 1.00% #3*" in page.text and "unknown: one run" not in page.text
