import jax
import numpy as np
import pytest

from ebmjax import data
from ebmjax.data import batches


def test_an_epoch_is_a_permutation_given_by_seed_and_epoch():
    batches.epoch_order.cache_clear()
    order = {(s, e): batches.epoch_order(s, e, 100) for s in (0, 1) for e in (0, 1)}
    for x in order.values():
        np.testing.assert_array_equal(np.sort(x), np.arange(100))
    assert len({x.tobytes() for x in order.values()}) == 4
    batches.epoch_order.cache_clear()
    for (seed, epoch), x in order.items():
        np.testing.assert_array_equal(x, batches.epoch_order(seed, epoch, 100))
    with pytest.raises(ValueError, match="read-only"):
        order[0, 0][0] = 1


def test_steps_visit_no_example_twice_in_an_epoch():
    def batch(step):
        return batches.batch_indices(7, step, num_examples=23, batch_size=5)

    for epoch in range(3):
        seen = np.concatenate([batch(4 * epoch + i) for i in range(4)])
        assert len(np.unique(seen)) == 20
        np.testing.assert_array_equal(seen, batches.epoch_order(7, epoch, 23)[:20])
    assert batch(0).dtype == np.int32


@pytest.mark.parametrize("batch_size", [0, -1, 24])
def test_a_batch_must_fit_the_data(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} cannot be drawn"):
        batches.batch_indices(0, 0, num_examples=23, batch_size=batch_size)
    splits = make_splits(np.zeros((23, 1, 1, 1), np.uint8))
    with pytest.raises(ValueError, match=f"batch_size={batch_size} cannot be drawn"):
        batches.streams(splits, seed=0, batch_size=batch_size)


def make_splits(x):
    label = np.arange(len(x), dtype=np.int32) % 2
    train = data.Dataset(x, label)
    return data.Splits(train, train.take(slice(0, 0)), train, ("a", "b"))


def test_streams_of_a_seed_and_step_stay_what_they_were():
    """So that runs resume, and that published numbers can be reproduced."""
    splits = make_splits(np.zeros((20, 1, 1, 1), np.uint8))
    some = batches.streams(
        splits, seed=3, batch_size=6, labels_per_class=2, split_seed=5
    )
    expected = {
        0: ([9, 0, 14, 2, 3, 19], [12, 12, 19, 13, 14, 13]),
        1: ([15, 16, 17, 11, 6, 8], [14, 19, 12, 13, 19, 14]),
        7: ([12, 11, 17, 19, 6, 16], [13, 13, 19, 14, 12, 19]),
    }
    for step, (main, labelled) in expected.items():
        assert some[batches.MAIN].indices(step).tolist() == main
        assert some["labelled"].indices(step).tolist() == labelled
    every = batches.streams(splits, seed=3, batch_size=6, separate=True)
    assert every["labelled"].indices(7).tolist() == [19, 3, 4, 12, 14, 9]
    assert set(batches.streams(splits, seed=3, batch_size=6)) == {batches.MAIN}


def test_the_main_stream_may_have_a_batch_size_of_its_own():
    splits = make_splits(np.zeros((20, 1, 1, 1), np.uint8))
    one = batches.streams(splits, seed=3, batch_size=6, separate=True)
    two = batches.streams(
        splits, seed=3, batch_size=6, main_batch_size=4, separate=True
    )
    everything = np.arange(20, dtype=np.int32)
    for step in (0, 1, 7):
        np.testing.assert_array_equal(
            two[batches.MAIN].indices(step),
            batches.Stream(everything, 4, 3).indices(step),
        )
        np.testing.assert_array_equal(
            two["labelled"].indices(step), one["labelled"].indices(step)
        )
    with pytest.raises(ValueError, match="batch_size=21 cannot be drawn"):
        batches.streams(splits, seed=3, batch_size=6, main_batch_size=21)


def test_a_labelled_stream_has_the_labels_of_the_split_seed_only():
    splits = make_splits(np.zeros((40, 1, 1, 1), np.uint8))
    options = dict(batch_size=8, labels_per_class=3)
    streams = batches.streams(splits, seed=0, split_seed=5, **options)
    seen = {i for step in range(50) for i in streams["labelled"].indices(step)}
    chosen = data.labelled_indices(splits.train.label, 3, 2, seed=5)
    assert seen == set(chosen.tolist())
    with pytest.raises(ValueError, match="labels_per_class=30 asks for more than"):
        batches.streams(splits, seed=0, batch_size=8, labels_per_class=30)


KINDS = {
    "images": np.random.default_rng(0).integers(0, 256, (24, 2, 3, 1), np.uint8),
    "vectors": np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resident_mib", [0, 1])
def test_batches_are_the_examples_of_their_streams(kind, resident_mib):
    """Both on the devices and from the host, also after a step back."""
    splits = make_splits(KINDS[kind])
    num_devices = jax.device_count()
    streams = batches.streams(splits, seed=1, batch_size=8, labels_per_class=2)
    # A third stream with a batch size of its own.
    everything = np.arange(24, dtype=np.int32)
    streams["generative"] = batches.Stream(everything, 4, (1, 2))
    # And one over another data set.
    other = data.Dataset(splits.train.image[::-2].copy(), np.full(12, -1, np.int32))
    streams |= batches.streams(
        splits, seed=1, batch_size=8, outliers=other, outliers_batch_size=12
    )
    opened = batches.open_batches(splits.train, streams, resident_mib=resident_mib)
    assert (opened.resident is None) == (resident_mib == 0)
    with opened as feed:
        for step in (0, 1, 2, 1, 2, 3):
            batch = feed.batch(step)
            for name, stream in streams.items():
                part = batch[name] if name else batch
                if opened.resident is not None:
                    index = part["index"]
                    arrays = opened.resident.get(name, opened.resident)
                    part = {k: arrays[k][index] for k in ("image", "label")}
                dataset = other if name == "outliers" else splits.train
                expected = dataset.take(stream.indices(step))
                shape = (num_devices, stream.batch_size // num_devices)
                assert part["label"].shape == shape
                for key, x in expected._asdict().items():
                    got = np.asarray(part[key]).reshape(x.shape)
                    assert got.dtype == x.dtype
                    np.testing.assert_array_equal(got, x)


def test_an_error_of_the_reading_thread_is_raised_and_the_thread_ends():
    splits = make_splits(KINDS["vectors"])
    streams = {batches.MAIN: batches.Stream(np.array([99] * 8, np.int32), 8, 0)}
    with batches.HostBatches(splits.train, streams) as feed:
        with pytest.raises(IndexError):
            feed.batch(0)
    with pytest.raises(RuntimeError, match="shutdown"):
        feed.batch(1)


def test_only_the_rows_that_are_asked_for_are_read():
    array = np.arange(10 * 3).reshape(10, 3)
    index = np.array([[7, 1], [4, 4], [0, 9]])
    rows = batches.Rows(array, index)
    assert rows.shape == (3, 2, 3)
    second = rows[slice(1, 2), slice(None), slice(None)]
    np.testing.assert_array_equal(second, array[[[4, 4]]])


@pytest.mark.parametrize("size", [0, 13])
def test_a_batch_of_outliers_must_fit_their_number(size):
    splits = make_splits(KINDS["images"])
    few = data.Dataset(KINDS["images"][:12], np.zeros(12, np.int32))
    with pytest.raises(ValueError, match=f"batch_size is {size}, but there are 12 out"):
        batches.streams(
            splits, seed=1, batch_size=8, outliers=few, outliers_batch_size=size
        )


def test_data_sets_of_streams_count_among_what_is_resident():
    splits = make_splits(np.zeros((20, 64, 64, 1), np.uint8))  # 0.08 MiB
    large = data.Dataset(np.zeros((300, 64, 64, 1), np.uint8), np.zeros(300, np.int32))
    options = dict(seed=0, batch_size=4)
    both = batches.streams(splits, **options, outliers=large, outliers_batch_size=4)
    for streams, kind in [
        (batches.streams(splits, **options), batches.ResidentBatches),
        (both, batches.HostBatches),
    ]:
        opened = batches.open_batches(splits.train, streams, resident_mib=1)
        with opened:
            assert isinstance(opened, kind)
