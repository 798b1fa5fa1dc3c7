"""Simulated rows and images whose noise, and whose anomalies, are known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.utils import check_random_state

from riskvae._sklearn import Bunch
from riskvae._validation import check_parameters, integer, real

__all__ = ["make_heteroscedastic", "make_lesions"]


def make_heteroscedastic(
    n_samples: int = 1000, *, n_features: int = 4, n_latent: int = 2, noise: float = 0.2, random_state: Any = None
) -> Bunch:
    r"""Rows near a curved surface, with normal noise of known standard deviation that changes along it.

    .. math:: x_j = f_j(t) + s_j(t) \, \epsilon_j, \qquad f_j = \sin(a_j^T t + b_j), \qquad
              s_j = c \, \bigl(1 + \tfrac34 \sin(u_j^T t + v_j)\bigr), \qquad t, \epsilon \sim N(0, I)

    with directions :math:`a_j, u_j` of length 1 and phases that are the same for every ``random_state``: two calls draw
    rows of the same population.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    n_features : int, default=4
        Number of features.
    n_latent : int, default=2
        Number of dimensions of the surface.
    noise : float, default=0.2
        c, at least 0: standard deviations lie between 1/4 and 7/4 of it.
    random_state : int, RandomState or None, default=None
        Determines the rows.

    Returns
    -------
    Bunch
        ``data``, ``mean`` (f) and ``scale`` (s), each (n_samples, n_features), and ``latent`` (t), of shape
        (n_samples, n_latent).

    Examples
    --------
    >>> from riskvae.datasets import make_heteroscedastic
    >>> rows = make_heteroscedastic(500, random_state=0)
    >>> z = (rows.data - rows.mean) / rows.scale
    >>> print(z.shape, round(float(z.std()), 1))
    (500, 4) 1.0
    """
    values = {"n_samples": n_samples, "n_features": n_features, "n_latent": n_latent, "noise": noise}
    rules = {"n_samples": integer(1), "n_features": integer(1), "n_latent": integer(1), "noise": real(0.0)}
    check_parameters("make_heteroscedastic", values, rules)
    surface, chance = np.random.RandomState(0), check_random_state(random_state)
    a, u = (w / np.linalg.norm(w, axis=0) for w in surface.normal(size=(2, n_latent, n_features)))
    b, v = surface.uniform(-np.pi, np.pi, size=(2, n_features))
    t = chance.normal(size=(n_samples, n_latent))
    mean, scale = np.sin(t @ a + b), noise * (1.0 + 0.75 * np.sin(t @ u + v))
    data = mean + scale * chance.normal(size=mean.shape)
    return Bunch(data=data, mean=mean, scale=scale, latent=t)


def make_lesions(
    n_samples: int = 200,
    *,
    size: int = 64,
    n_lesions: int = 1,
    contrast: float = 0.3,
    random_state: Any = None,
) -> Bunch:
    """Simulated slices of a head, with noise of known standard deviation and blurred bright lesions.

    A slice is an ellipse of varying shape, rotation and brightness, with a bright rim and two dark ventricles. The
    noise is normal and strongest in the rim. Lesions are blurred discs of known contrast inside the ellipse, with radii
    of 2 to 5 pixels (of 64).

    Parameters
    ----------
    n_samples : int, default=200
        Number of images.
    size : int, default=64
        Height and width in pixels, at least 16.
    n_lesions : int, default=1
        Number of lesions in each image; 0 for healthy ones.
    contrast : float, default=0.3
        Brightness that a lesion adds at its center; tissue has a brightness of about 0.5.
    random_state : int, RandomState or None, default=None
        Determines the images.

    Returns
    -------
    Bunch
        ``data`` of shape (n_samples, size**2), float32; ``mean`` and ``scale``, the noise-free image *without* lesions
        and the standard deviation of the noise; ``lesions`` and ``inside``, bool: the pixels in which a lesion has at
        least half of its contrast, and those of the head. All have the same shape.

    Examples
    --------
    >>> from riskvae.datasets import make_lesions
    >>> slices = make_lesions(5, random_state=0)
    >>> slices.data.shape, bool(slices.lesions.any(axis=1).all())
    ((5, 4096), True)
    """
    values = {"n_samples": n_samples, "size": size, "n_lesions": n_lesions, "contrast": contrast}
    rules = {"n_samples": integer(1), "size": integer(16), "n_lesions": integer(0), "contrast": real(0.0)}
    check_parameters("make_lesions", values, rules)
    chance = check_random_state(random_state)
    grid = np.linspace(-1.0, 1.0, size)
    images = [_slice(grid, n_lesions, chance) for _ in range(n_samples)]
    mean, scale, profile, inside = (np.stack(part).reshape(n_samples, -1) for part in zip(*images, strict=True))
    data = mean + contrast * profile + scale * chance.normal(size=mean.shape)
    rows = {"data": data, "mean": mean, "scale": scale}
    return Bunch(
        **{name: values.astype(np.float32) for name, values in rows.items()}, lesions=profile >= 0.5, inside=inside
    )


def _slice(
    grid: NDArray[np.float64], n_lesions: int, chance: np.random.RandomState
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Noise-free image, its noise, the lesions (1 at their centers), and where the head is."""
    width, height = chance.uniform(0.62, 0.78), chance.uniform(0.76, 0.92)
    turn, brightness, opening = chance.uniform(-0.2, 0.2), chance.uniform(0.45, 0.55), chance.uniform(0.7, 1.3)
    x = np.cos(turn) * grid + np.sin(turn) * grid[:, None]
    y = np.cos(turn) * grid[:, None] - np.sin(turn) * grid
    radius = np.hypot(x / width, y / height)

    def step(distance: NDArray[np.float64], softness: float = 0.06) -> NDArray[np.float64]:
        return 0.5 - 0.5 * np.tanh(distance / softness)

    head, rim = step(radius - 1.0), np.exp(-(((radius - 0.93) / 0.06) ** 2))
    ventricles = step(np.hypot((np.abs(x) - 0.16) / (0.10 * opening), y / (0.32 * opening)) - 1.0, 0.25)
    folds = 0.04 * np.sin(9.0 * x / width) * np.sin(9.0 * y / height)
    mean = head * (brightness + folds - 0.3 * ventricles + 0.35 * rim)
    scale = 0.01 + head * (0.02 + 0.06 * rim)
    profile, pixel = np.zeros_like(mean), grid[1] - grid[0]
    for _ in range(n_lesions):
        angle, reach = chance.uniform(0, 2 * np.pi), 0.7 * np.sqrt(chance.uniform())
        center = reach * width * np.cos(angle), reach * height * np.sin(angle)
        extent = max(chance.uniform(2.0, 5.0) / 32, 0.75 * pixel)  # a pixel at least
        disc = (np.hypot(x - center[0], y - center[1]) <= extent).astype(float)
        blurred = gaussian_filter(disc, 0.03 / pixel)
        profile = np.maximum(profile, blurred / blurred.max())
    return mean, scale, profile, radius < 1.0
