"""Elastic distortions move pixels as far as they say, and do nothing else."""

import numpy as np
import pytest

from riskvae.datasets import elastic_distortion


def ramps(n, side=40):
    """Images whose values are their own coordinates, so that a distorted one tells where its pixels came from."""
    first, second = np.indices((side, side), dtype=float).reshape(2, -1)
    return np.tile(first, (n, 1)), np.tile(second, (n, 1))


@pytest.mark.parametrize(("alpha", "sigma"), [(34.0, 4.0), (10.0, 2.0)])
def test_displacements_are_as_large_and_smooth_as_told(alpha, sigma):
    moved = []
    for image in ramps(60):
        shift = (elastic_distortion(image, alpha=alpha, sigma=sigma, random_state=0) - image).reshape(-1, 40, 40)
        moved.append(shift[:, 12:28, 12:28])  # inside, where neither the border nor its mirror image matters
    for shift in moved:
        # Each mean is of some 60 * 16**2 / (4 pi sigma**2) independent values: 75 or more.
        assert shift.std() == pytest.approx(0.163 * alpha / sigma, rel=0.15)
        assert shift.mean() == pytest.approx(0.0, abs=0.12 * 4 * alpha / sigma)
        # The field's correlation at a distance d is exp(-d^2 / (4 sigma^2)).
        near = np.corrcoef(shift[:, :-2].ravel(), shift[:, 2:].ravel())[0, 1]
        assert near == pytest.approx(np.exp(-1 / sigma**2), abs=0.03)
    assert abs(np.corrcoef(moved[0].ravel(), moved[1].ravel())[0, 1]) < 0.3  # the coordinates move independently


def test_each_image_by_its_own_and_by_the_seed():
    X = np.random.default_rng(0).uniform(size=(4, 60)).astype(np.float32)
    a, b = (elastic_distortion(X, image_shape=(6, 10), random_state=seed) for seed in (0, 1))
    assert a.shape == X.shape
    assert a.dtype == X.dtype
    assert 0 <= a.min() <= a.max() <= 1
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(a, elastic_distortion(X, image_shape=(6, 10), random_state=0))
    twins = elastic_distortion(X[[0, 0]], image_shape=(6, 10), random_state=0)
    assert not np.allclose(*twins)
    np.testing.assert_array_equal(elastic_distortion(X, alpha=0.0, image_shape=(6, 10)), X)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"image_shape must be \(height, width\) with product 60"):
        elastic_distortion(np.zeros((2, 60)))
    with pytest.raises(ValueError, match="sigma"):
        elastic_distortion(np.zeros((2, 64)), sigma=0.0)
