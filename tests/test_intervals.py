"""Worth of intervals: their coverage, and a score that the true quantiles win."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from riskvae.metrics import coverage, interval_score


def test_coverage_counts_by_feature_and_ends_belong():
    X = np.array([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0]])
    intervals = np.broadcast_to([[0.0, 1.0], [6.5, np.inf]], (3, 2, 2))
    np.testing.assert_allclose(coverage(X, intervals), [2 / 3, 1 / 3])


@given(st.floats(0.05, 0.95), st.floats(-1, 1), st.floats(0.3, 3))
def test_no_interval_scores_better_than_the_quantiles(alpha, shift, factor):
    x = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    best = stats.norm.ppf([alpha / 2, 1 - alpha / 2])
    scores = [interval_score(x, np.broadcast_to(ends, (2000, 1, 2)), alpha) for ends in (best, best * factor + shift)]
    assert scores[0] <= scores[1] + 1e-3


def test_the_score_is_the_sum_of_two_pinball_losses():
    from sklearn.metrics import mean_pinball_loss

    rng = np.random.default_rng(0)
    x, ends = rng.normal(size=(40, 3)), np.sort(rng.normal(size=(40, 3, 2)), axis=-1)
    pinball = sum(
        mean_pinball_loss(x, ends[..., i], alpha=level, multioutput="raw_values") for i, level in ((0, 0.1), (1, 0.9))
    )
    np.testing.assert_allclose(interval_score(x, ends, 0.2), 2 / 0.2 * pinball, rtol=1e-12)


def test_mistakes():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"shape \(n_samples, n_features, 2\); got \(3, 2\) for X of shape \(3, 2\)"):
        coverage(x, x)
    with pytest.raises(ValueError, match="lower ends"):
        coverage(x, np.broadcast_to([1.0, -1.0], (3, 2, 2)))
    with pytest.raises(ValueError, match="NaN"):
        coverage(x, np.full((3, 2, 2), np.nan))
    with pytest.raises(ValueError, match="alpha must be"):
        interval_score(x, np.zeros((3, 2, 2)), 1.0)
