"""Distortions of images: the same thing, drawn otherwise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.utils import check_array, check_random_state

from riskvae._validation import check_parameters, image_shape_of, real

__all__ = ["elastic_distortion"]


def elastic_distortion(
    X: ArrayLike,
    *,
    alpha: float = 34.0,
    sigma: float = 4.0,
    image_shape: Sequence[int] | None = None,
    random_state: Any = None,
) -> NDArray[np.floating]:
    r"""Distort images by smooth random displacements of their pixels, a different one for each image.

    .. math:: x'(p) = x(p + \alpha \, (G_\sigma * u)(p)), \qquad u_1(p), u_2(p) \sim U(-1, 1)

    with the Gaussian kernel :math:`G_\sigma`. Values between pixels are interpolated linearly, and outside of the image
    they are zero. Each coordinate of a displacement has a standard deviation of about :math:`0.16 \, \alpha / \sigma`
    pixels (1.4 by default), and more near the border, where the noise is mirrored. It varies over about :math:`\sigma`
    pixels.

    Parameters
    ----------
    X : array-like of shape (n_samples, height * width)
        Images, one per row.
    alpha : float, default=34.0
        Strength in pixels, at least 0; 0 does not change the images.
    sigma : float, default=4.0
        Smoothness in pixels, above 0. The defaults are those of the reference for 28 x 28 digits.
    image_shape : (height, width), default=None
        None means square images.
    random_state : int, RandomState or None, default=None
        Determines the displacements.

    Returns
    -------
    ndarray of shape (n_samples, height * width)
        Distorted images, in the dtype of X if that is a float; within the range of X and 0.

    Raises
    ------
    ValueError
        For an invalid parameter, or if ``image_shape`` does not match the rows.

    References
    ----------
    Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied to visual document
    analysis" (2003).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae.datasets import elastic_distortion
    >>> X = load_digits().data[:3]
    >>> elastic_distortion(X, alpha=8.0, sigma=2.0, random_state=0).shape
    (3, 64)
    """
    values = {"alpha": alpha, "sigma": sigma}
    check_parameters("elastic_distortion", values, {"alpha": real(0.0), "sigma": real(0.0, closed="neither")})
    rows = check_array(X, dtype=(np.float64, np.float32), input_name="X")
    shape = image_shape_of(rows, image_shape)
    chance = check_random_state(random_state)
    grid = np.indices(shape)
    distorted = np.empty_like(rows)
    for image, out in zip(rows, distorted, strict=True):
        moved = alpha * gaussian_filter(chance.uniform(-1.0, 1.0, size=grid.shape), (0, sigma, sigma))
        out[:] = map_coordinates(image.reshape(shape), grid + moved, order=1).ravel()
    return distorted
