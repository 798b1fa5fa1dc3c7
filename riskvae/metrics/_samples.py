"""How close generated rows are to real ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array, check_random_state

Array = NDArray[np.float64]


class TwoSampleResult(NamedTuple):
    """Result of a two-sample test.

    Attributes
    ----------
    statistic : float
        Value that the function defines.
    pvalue : float
        Share of permutations of the labels, including the original one, with a statistic at least as large; NaN without
        permutations.
    """

    statistic: float
    pvalue: float


def nearest_neighbor_two_sample(
    X: ArrayLike, Y: ArrayLike, *, n_permutations: int = 999, random_state: Any = None
) -> TwoSampleResult:
    r"""Leave-one-out accuracy of a 1-nearest-neighbor classifier between two samples.

    The accuracy is one half if both samples come from the same distribution, one if they are far apart, and below one
    half if ``Y`` copies rows of ``X``. The p-value permutes labels over the fixed neighbors, so it is exact in any
    dimension. Ties between neighbors at equal distance, as in counts or repeated rows, are broken at random.

    Parameters
    ----------
    X, Y : array-like of shape (n_samples_X, n_features) and (n_samples_Y, n_features)
        Real and generated rows, preferably of equal number: only then is chance level one half.
    n_permutations : int, default=999
        Number of permutations of the labels for the p-value; 0 for none.
    random_state : int, RandomState or None, default=None
        Seed of the permutations and of the tie-breaking.

    Returns
    -------
    TwoSampleResult
        ``statistic`` is the accuracy, in [0, 1].

    References
    ----------
    Lopez-Paz and Oquab, "Revisiting classifier two-sample tests" (2017).
    Xu et al., "An empirical study on evaluation metrics of generative adversarial networks" (2018).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> near = nearest_neighbor_two_sample(rng.normal(size=(99, 2)), rng.normal(size=(99, 2)), random_state=0)
    >>> far = nearest_neighbor_two_sample(rng.normal(size=(99, 2)), rng.normal(5, 1, (99, 2)), random_state=0)
    >>> near.pvalue > 0.05, far.statistic, far.pvalue
    (True, 1.0, 0.001)
    """
    both, labels = _two_samples(X, Y, n_permutations)
    rng = check_random_state(random_state)
    # A search breaks ties by index, which knows the labels; a coordinate of chance, too small to matter elsewhere,
    # breaks them without. Without rows of their own, kneighbors leaves each row itself out, also where others equal it.
    lots = 1e-5 * np.sqrt(both.var(axis=0).sum()) * rng.uniform(size=(len(both), 1))
    search = NearestNeighbors(n_neighbors=1).fit(np.hstack((both - both.mean(axis=0), lots)))
    neighbors = search.kneighbors(return_distance=False)[:, 0]
    accuracy = float(np.mean(labels == labels[neighbors]))
    permuted = (rng.permutation(labels) for _ in range(n_permutations))
    return _result(accuracy, [np.mean(p == p[neighbors]) for p in permuted], rounding=1e-12)


def kernel_mmd(
    X: ArrayLike,
    Y: ArrayLike,
    *,
    kernel: str | Callable[[Any, Any], float] = "rbf",
    gamma: float | None = None,
    n_permutations: int = 0,
    random_state: Any = None,
) -> TwoSampleResult:
    r"""Unbiased estimate of the squared maximum mean discrepancy between two samples.

    .. math:: \frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{n(n-1)} \sum_{i \ne j} k(y_i, y_j)
              - \frac{2}{mn} \sum_{i,j} k(x_i, y_j)

    The estimate is zero in expectation if both samples come from the same distribution, so small values may be
    negative. The kernel of all pairs is held in memory: :math:`8 (m + n)^2` bytes.

    Parameters
    ----------
    X, Y : array-like of shape (m, n_features) and (n, n_features)
        Real and generated rows, at least two each.
    kernel : str or callable, default="rbf"
        As in :func:`sklearn.metrics.pairwise.pairwise_kernels`.
    gamma : float, default=None
        Parameter of the "rbf" kernel exp(-gamma ||x - y||^2), above 0. None uses 1 / (2 median^2) of the distances
        between all rows (or 1 if that median is 0).
    n_permutations : int, default=0
        Number of permutations of the labels for a p-value; 0 for none.
    random_state : int, RandomState or None, default=None
        Seed of the permutations.

    Returns
    -------
    TwoSampleResult
        ``statistic`` is the estimate above.

    References
    ----------
    Gretton, Borgwardt, Rasch, Schölkopf and Smola, "A kernel two-sample test" (2012).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(200, 2)), rng.normal(1, 1, (200, 2))
    >>> kernel_mmd(X, Y, n_permutations=99, random_state=0).pvalue
    0.01
    """
    both, labels = _two_samples(X, Y, n_permutations)
    if min(labels.sum(), (~labels).sum()) < 2:
        raise ValueError("X and Y must have at least two rows each: no row is paired with itself.")
    if gamma is not None and (kernel != "rbf" or not 0 < gamma < np.inf):
        raise ValueError(f"gamma must be None or, for kernel='rbf', a number above 0; got {gamma!r} with {kernel!r}.")
    if kernel == "rbf" and gamma is None:
        median = float(np.median(pdist(both)))
        gamma = 0.5 / median**2 if median > 0 else 1.0
    pairs = pairwise_kernels(both, metric=kernel, **({} if gamma is None else {"gamma": gamma}))
    np.fill_diagonal(pairs, 0.0)
    rng = check_random_state(random_state)
    statistic = float(_mmd(pairs, labels[:, None])[0])
    # A few permutations at a time: their products are one matrix product, without another matrix of all pairs.
    null: list[float] = []
    while len(null) < n_permutations:
        block = min(64, n_permutations - len(null))
        null.extend(_mmd(pairs, np.stack([rng.permutation(labels) for _ in range(block)], axis=1)))
    return _result(statistic, null, rounding=1e-12 * float(np.abs(pairs).max()))


def _mmd(pairs: Array, labels: NDArray[np.bool_]) -> Array:
    """Estimates for labels of shape (rows, permutations); the kernel's diagonal is zero."""
    first = labels.astype(np.float64)
    second = 1.0 - first
    m, n = first.sum(0), second.sum(0)
    of_first = pairs @ first
    inside_first = (first * of_first).sum(0)
    across = (second * of_first).sum(0)
    inside_second = pairs.sum() - inside_first - 2 * across
    return inside_first / (m * (m - 1)) + inside_second / (n * (n - 1)) - 2 * across / (m * n)


def _two_samples(X: ArrayLike, Y: ArrayLike, n_permutations: int) -> tuple[Array, NDArray[np.bool_]]:
    first: Array = check_array(X, input_name="X", dtype=np.float64)
    second: Array = check_array(Y, input_name="Y", dtype=np.float64)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"X and Y must have the same features; got {first.shape[1]} and {second.shape[1]}.")
    if not isinstance(n_permutations, int | np.integer) or n_permutations < 0:
        raise ValueError(f"n_permutations must be an integer of at least 0; got {n_permutations!r}.")
    return np.concatenate((first, second)), np.repeat([True, False], [len(first), len(second)])


def _result(statistic: float, null: list[float], rounding: float) -> TwoSampleResult:
    if not null:
        return TwoSampleResult(statistic, float("nan"))
    beyond = np.asarray(null) >= statistic - rounding  # equal statistics may differ by that
    return TwoSampleResult(statistic, float((1 + beyond.sum()) / (1 + len(null))))


def mixture_log_likelihood(
    X_real: ArrayLike,
    X: ArrayLike,
    *,
    n_components: int = 10,
    covariance_type: str = "diag",
    reg_covar: float = 1e-3,
    random_state: Any = None,
) -> Array:
    r"""Log-likelihood of single rows under a Gaussian mixture fitted to real rows.

    .. math:: \log \sum_k w_k \, N(x; \mu_k, \Sigma_k)

    Each generated row is evaluated by itself, so best and worst cases can be compared (:func:`tail_curve` of the
    negated values). Two-sample tests evaluate the sample as a whole instead.

    Parameters
    ----------
    X_real : array-like of shape (n_samples_real, n_features)
        Rows that the mixture is fitted to.
    X : array-like of shape (n_samples, n_features)
        Rows to evaluate.
    n_components : int, default=10
        Number of components of the mixture.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="diag"
        As in :class:`sklearn.mixture.GaussianMixture`; the number of parameters of "full" is quadratic in the number of
        features, per component.
    reg_covar : float, default=1e-3
        Added to the variances, in squared units of the features: constant pixels would otherwise have a variance of
        zero.
    random_state : int, RandomState or None, default=None
        Seed of the initialization.

    Returns
    -------
    ndarray of shape (n_samples,)
        Nats per row; larger is more similar to the real rows.

    References
    ----------
    Gu et al., quoted in Li and Zhu, "Risk-aware variational autoencoder", section 3.2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data / 16
    >>> likely = mixture_log_likelihood(X, X[:100], random_state=0)
    >>> bool(likely.mean() > mixture_log_likelihood(X, 1 - X[:100], random_state=0).mean())
    True
    """
    mixture = GaussianMixture(
        n_components, covariance_type=covariance_type, reg_covar=reg_covar, random_state=random_state
    )
    return mixture.fit(check_array(X_real, input_name="X_real")).score_samples(check_array(X, input_name="X"))
