"""Features of training examples are computed once for a checkpoint and its data."""

import dataclasses

import numpy as np
import pytest
from eval_runs import linear_network, make_run, ridge_weights

from ebmjax import parallel, runs
from ebmjax.eval import fit_features
from ebmjax.eval.result import Progress


class Counting(Progress):
    """Counts the batches."""

    num = 0

    def _batches(self, batches):
        for i in batches:
            self.num += 1
            yield i


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path)
    run.config.eval.batch_size = 40
    return run


def features(run, num=100, label=None, image=None):
    """The features and the number of batches computed for them."""
    train, progress = run.splits().train, Counting()
    label = train.label[:num] if label is None else label
    image = train.image[:num] if image is None else image
    found = fit_features.of_examples(run, image, label, progress)
    x = image.reshape(num, -1) / 127.5 - 1
    np.testing.assert_allclose(found, x[:, ::4], atol=1e-6)
    return found, progress.num


def test_the_second_time_only_the_first_batch_is_computed(run):
    first, num_first = features(run)
    again, num_again = features(run)
    assert (num_first, num_again) == (3, 1)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("change", ["step", "ema", "num", "image", "label", "damage"])
def test_other_settings_compute_all_of_them_again(run, tmp_path, change):
    features(run)
    num, label, image = 100, None, None
    if change == "step":
        run = dataclasses.replace(run, step=8)
    elif change == "ema":
        run = dataclasses.replace(run, ema=True)
    elif change == "num":
        num = 90
    elif change == "image":  # behind the first batch
        image = run.splits().train.image[:100].copy()
        image[99, 0, 0] += 9
    elif change == "label":
        label = np.zeros(100, np.int32)
    else:
        path = tmp_path / "eval" / fit_features.FILE
        path.write_bytes(path.read_bytes()[:-500])
    assert features(run, num, label, image)[1] == 3


def test_another_model_of_the_same_step_is_noticed(run):
    features(run)

    def apply(params, stats, x):
        return 2 * x.reshape(len(x), -1)

    network = linear_network()._replace(features=apply)
    model = runs.Model(network, parallel.place(({"w": ridge_weights()}, {})))
    other, train = dataclasses.replace(run, model=model), run.splits().train
    progress = Counting()
    pair = train.image[:100], train.label[:100]
    found = fit_features.of_examples(other, *pair, progress)
    assert progress.num == 3 and found.shape == (100, 64)


def test_a_single_batch_leaves_no_file(run, tmp_path):
    assert features(run, 40)[1] == 1
    assert not (tmp_path / "eval").exists()


def test_a_folder_that_cannot_be_written_is_no_failure(run, tmp_path):
    (tmp_path / "eval").write_text("not a folder")
    assert [features(run)[1] for _ in range(2)] == [3, 3]
