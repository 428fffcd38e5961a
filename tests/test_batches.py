import numpy as np
import pytest

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


def test_only_the_rows_that_are_asked_for_are_read():
    array = np.arange(10 * 3).reshape(10, 3)
    index = np.array([[7, 1], [4, 4], [0, 9]])
    rows = batches.Rows(array, index)
    assert rows.shape == (3, 2, 3)
    second = rows[slice(1, 2), slice(None), slice(None)]
    np.testing.assert_array_equal(second, array[[[4, 4]]])
