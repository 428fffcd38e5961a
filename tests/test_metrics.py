import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import metrics
from ebmjax.eval import calibration, frechet

LABELS = np.array([0, 1, 2, 0])
LOGITS = np.array([[2.0, 0, 0], [0, 0, 1], [-1, 0, 1], [3, 3, 0]])


def test_accuracy_counts_the_first_of_equal_logits():
    assert metrics.accuracy(LOGITS, LABELS) == 3 / 4


def test_nll_and_softmax_by_hand():
    exp = np.exp(LOGITS)
    probs = exp / exp.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(metrics.softmax(LOGITS), probs)
    cold = np.exp(LOGITS / 0.5)
    np.testing.assert_allclose(
        metrics.softmax(LOGITS, 0.5), cold / cold.sum(axis=1, keepdims=True)
    )
    expected = -np.mean(np.log(probs[np.arange(4), LABELS]))
    np.testing.assert_allclose(metrics.nll_from_logits(LOGITS, LABELS), expected)


def test_calibration_has_the_same_functions():
    for name in ("softmax", "accuracy", "nll_from_logits"):
        assert getattr(calibration, name) is getattr(metrics, name)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_probabilities_may_be_off_by_the_rounding_of_their_dtype(dtype):
    rng = np.random.default_rng(0)
    exact = metrics.softmax(rng.normal(0, 2, (200, 100)))
    labels = rng.integers(0, 100, 200)
    probs = exact.astype(dtype)
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    for error in (calibration.nll, calibration.brier, calibration.ece):
        expected = error(exact, labels)
        np.testing.assert_allclose(error(probs, labels), expected, atol=tolerance)
    score, expected = (frechet.inception_score(p).mean for p in (probs, exact))
    np.testing.assert_allclose(score, expected, rtol=10 * tolerance)


def test_one_and_a_little_is_one():
    probs = np.eye(3)[LABELS] * (1 + 1.2e-7) - 1e-9
    assert calibration.ece(probs, LABELS) == pytest.approx(0, abs=1e-8)
    assert calibration.nll(probs, LABELS) == 0


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_what_is_off_by_more_is_refused(dtype):
    with pytest.raises(ValueError, match="sum to 1 only within 0.1"):
        metrics.check_probs(np.array([[0.5, 0.4]]).astype(dtype))
    with pytest.raises(ValueError, match="are these logits"):
        metrics.check_probs(np.array([[1.5, -0.5]]).astype(dtype))
    with pytest.raises(ValueError, match="1 entries are not finite"):
        metrics.check_probs(np.array([[np.nan, 1.0]]).astype(dtype))
