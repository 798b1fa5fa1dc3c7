"""Simulations keep what they say of their noise and anomalies."""

import numpy as np
import pytest
from scipy import stats

from riskvae.datasets import make_heteroscedastic, make_lesions


@pytest.mark.parametrize(("n_latent", "n_features"), [(1, 1), (2, 4), (3, 10)])
def test_noise_has_the_scale_that_is_told(n_latent, n_features):
    rows = make_heteroscedastic(20_000, n_features=n_features, n_latent=n_latent, random_state=0)
    assert rows.latent.shape == (20_000, n_latent)
    z = (rows.data - rows.mean) / rows.scale
    for j in range(n_features):
        assert stats.kstest(z[:, j], "norm").pvalue > 1e-4  # 15 features in all: fails once in 700 seeds
        quarters = np.digitize(rows.scale[:, j], np.quantile(rows.scale[:, j], [0.25, 0.5, 0.75]))
        for quarter in range(4):  # of 5,000 rows each: a standard error of 1 %
            assert z[quarters == quarter, j].std() == pytest.approx(1.0, abs=0.05)
        assert rows.scale[:, j].max() > 2 * rows.scale[:, j].min() > 0


def test_seeds_draw_rows_of_one_population():
    a, b = (make_heteroscedastic(50, random_state=seed) for seed in (0, 1))
    assert not np.allclose(a.data, b.data)
    np.testing.assert_array_equal(a.data, make_heteroscedastic(50, random_state=0).data)
    np.testing.assert_array_equal(make_heteroscedastic(50, noise=0.0, random_state=0).data, a.mean)
    big = [make_heteroscedastic(20_000, random_state=seed).mean.mean(0) for seed in (0, 1)]
    np.testing.assert_allclose(*big, atol=0.03)  # six standard errors


@pytest.mark.parametrize("size", [16, 48, 64])
def test_lesions_are_where_they_are_told_and_add_their_contrast(size):
    slices = make_lesions(30, size=size, n_lesions=2, contrast=0.4, random_state=0)
    healthy = make_lesions(30, size=size, n_lesions=2, contrast=0.0, random_state=0)
    added = slices.data - healthy.data
    assert slices.data.shape == (30, size**2)
    assert slices.data.dtype == np.float32
    np.testing.assert_allclose(added.max(1), 0.4, rtol=1e-5)
    np.testing.assert_array_equal(added >= 0.2 - 1e-5, slices.lesions)
    assert (slices.lesions & ~slices.inside).sum() <= 0.02 * slices.lesions.sum()
    z = ((healthy.data - healthy.mean) / healthy.scale).ravel()
    assert z.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * len(z)))
    assert not make_lesions(3, size=size, n_lesions=0, random_state=0).lesions.any()


def test_mistakes():
    with pytest.raises(ValueError, match="make_heteroscedastic: noise must be a finite number of at least 0"):
        make_heteroscedastic(noise=-1)
    with pytest.raises(ValueError, match="make_lesions: size must be an integer of at least 16"):
        make_lesions(size=8)
