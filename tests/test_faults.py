"""Faults from outside, after which a run ends as an undisturbed one. More kills, and a
table: python -m experiments.faults. See also test_checkpoint.py and test_rundir.py;
damaged data files are in test_prepared.py.
"""

import random

import pytest
import tiny_tfds
from test_train import small

from ebmjax import train
from experiments import faults


@pytest.mark.slow
def test_killed_runs_end_as_one_that_was_left_alone(tmp_path):
    told = []
    found = faults.kills(tmp_path, 2, 400, random.Random(1), told.append)
    assert found == []
    assert len(told) == 2 + 2  # lines of the table


@pytest.mark.slow
def test_a_full_disk_costs_what_came_after_the_last_checkpoint(tmp_path):
    said, found = faults.disk_full(tmp_path, 80)
    assert "a checkpoint cannot be saved in" in said and "File too large" in said
    assert found == []


def test_a_damaged_data_file_stops_a_run_before_it_begins(tmp_path):
    tiny_tfds.prepare(tmp_path / "data")
    folder = tmp_path / "data" / "tiny" / "1.0.0"
    tiny_tfds.cut(tiny_tfds.the_file(folder, "train"))
    c = small(data__name="tiny", data__data_dir=str(tmp_path / "data"))
    with pytest.raises(OSError, match="tiny-train.* is damaged or incomplete"):
        train.fit(c, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
