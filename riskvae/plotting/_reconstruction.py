"""Display of rows of images: originals, perturbations, reconstructions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae.plotting._pyplot import pyplot
from riskvae.robustness._opening import open_coder

_CHANNELS = (1, 3)


class ReconstructionDisplay:
    r"""Images in labeled lines, one column per row of X: inputs, perturbations and reconstructions.

    Images with three channels are drawn in color, others in gray. Values are scaled to the range of the originals (the
    first line), :math:`(v - \min) / (\max - \min)`, and clipped at both ends, so dark images become brighter. Create
    the display with :meth:`from_estimator`, for reconstructions, or with :meth:`from_attack`.

    Parameters
    ----------
    lines : dict of str to ndarray of shape (n_images, n_features)
        Images by label, from top to bottom; or of shape ``(n_images, *image_shape)``.
    image_shape : (height, width), (channels, height, width) or (height, width, channels)
        Shape with one or three channels. Rows are images in C order.
    signed : sequence of str, default=()
        Labels of lines that are differences. They have their own scale around zero: with two colors or, for color
        images, with zero in gray.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the axes.
    axes_ : ndarray of matplotlib Axes, of shape (n_lines, n_images)
        Axes of each image.
    images_ : dict of str to list of matplotlib AxesImage
        Images by label.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE, max_damage_attack
    >>> from riskvae.plotting import ReconstructionDisplay
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> result = max_damage_attack(vae, X[:8], max_norm=1.0, n_steps=5, random_state=0)
    >>> display = ReconstructionDisplay.from_attack(vae, X[:8], result)
    >>> list(display.lines)
    ['original', 'reconstruction of original', 'perturbation', 'attacked', 'reconstruction of attacked']
    """

    lines: dict[str, NDArray[np.floating]]
    image_shape: tuple[int, ...]
    signed: tuple[str, ...]
    figure_: Any
    axes_: NDArray[Any]
    images_: dict[str, Any]

    def __init__(
        self,
        lines: Mapping[str, NDArray[np.floating]],
        image_shape: Sequence[int],
        *,
        signed: Sequence[str] = (),
    ) -> None:
        self.lines = dict(lines)
        self.image_shape = tuple(image_shape)
        self.signed = tuple(signed)

    @classmethod
    def from_estimator(
        cls, vae: Any, X: ArrayLike, *, image_shape: Sequence[int] | None = None, figure: Any = None
    ) -> Self:
        """Draw rows and their reconstructions at the posterior means.

        Parameters
        ----------
        vae : estimator, object with encode and decode, or dict of them
            One model, or several by name.
        X : array-like of shape (n_images, n_features), or of images
            A few rows; images have the shape (n_images, height, width), with or without channels.
        image_shape : sequence of int, default=None
            As in the class. None uses the shape of the images in X; flat rows are then square gray images.
        figure : matplotlib Figure or SubFigure, default=None
            Figure to draw on; None creates one.

        Returns
        -------
        ReconstructionDisplay
        """
        models = vae if isinstance(vae, Mapping) else {"reconstruction": vae}
        rows = np.asarray(X)
        shape = _picture_shape(rows, image_shape)
        lines = {"original": rows, **{name: _reconstruct(model, rows) for name, model in models.items()}}
        return cls(lines, shape).plot(figure)

    @classmethod
    def from_attack(
        cls, vae: Any, X: ArrayLike, result: Any, *, image_shape: Sequence[int] | None = None, figure: Any = None
    ) -> Self:
        """Draw rows, their perturbations, and their reconstructions before and after.

        Parameters
        ----------
        vae : estimator, or object with encode and decode
            Model that was attacked.
        X : array-like of shape (n_images, n_features), or of images
            A few rows that were attacked.
        result : AttackResult, TargetedAttackResult or RobustnessMargin
            Result with the perturbations ``delta`` of those rows.
        image_shape, figure
            As in :meth:`from_estimator`.

        Returns
        -------
        ReconstructionDisplay
        """
        rows = np.asarray(X)
        if not hasattr(result, "delta"):
            raise TypeError(f"result must be what an attack or robustness_margin returns; got {type(result).__name__}.")
        if result.delta is None or len(result.delta) != len(rows):
            found = "none" if result.delta is None else len(result.delta)
            raise ValueError(f"result must hold one perturbation for each of {len(rows)} rows of X; it has {found}.")
        shape = _picture_shape(rows, image_shape)
        moved = result.X_adv if hasattr(result, "X_adv") else rows + np.reshape(result.delta, rows.shape)
        lines = {
            "original": rows,
            "reconstruction of original": _reconstruct(vae, rows),
            "perturbation": np.asarray(result.delta),
            "attacked": moved,
            "reconstruction of attacked": _reconstruct(vae, moved),
        }
        return cls(lines, shape, signed=("perturbation",)).plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw the images.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, default=None
            Figure to draw on; None creates one.

        Returns
        -------
        ReconstructionDisplay
            Itself.
        """
        n = len(next(iter(self.lines.values())))
        if figure is None:
            figure = pyplot().figure(figsize=(2.2 + 0.85 * n, 0.9 * len(self.lines)), layout="constrained")
        if not hasattr(figure, "subplots"):
            raise TypeError(f"figure must be a matplotlib Figure or SubFigure; got {type(figure).__name__}.")
        self.figure_ = figure
        self.axes_ = np.atleast_2d(figure.subplots(len(self.lines), n, squeeze=False))
        self.images_ = {}
        for line, (label, values) in zip(self.axes_, self.lines.items(), strict=True):
            options = self._colors(label, values)
            images = self._pictures(np.reshape(values, (n, *self.image_shape)), options)
            self.images_[label] = [cell.imshow(image, **options) for cell, image in zip(line, images, strict=True)]
            for cell in line:
                cell.set(xticks=[], yticks=[])
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        return self

    def _pictures(self, images: NDArray[np.floating], options: Mapping[str, Any]) -> NDArray[np.floating]:
        """What matplotlib draws: (n, height, width), or colors in [0, 1] of shape (n, height, width, 3)."""
        if len(self.image_shape) == 2:
            return images
        images = np.moveaxis(images, 1, -1) if self.image_shape[0] in _CHANNELS else images
        if images.shape[-1] == 1:
            return images[..., 0]
        low, high = options["vmin"], options["vmax"]
        return np.clip((np.asarray(images, dtype=np.float64) - low) / ((high - low) or 1.0), 0.0, 1.0)

    def _colors(self, label: str, values: NDArray[np.floating]) -> dict[str, Any]:
        """Options of matplotlib's ``imshow`` for a line."""
        if label in self.signed:
            reach = float(np.abs(values).max()) or 1.0
            return {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
        # The originals set the scale: one bad line must not gray out the others.
        first = next(iter(self.lines.values()))
        return {"cmap": "gray_r", "vmin": float(np.min(first)), "vmax": float(np.max(first))}


def _picture_shape(rows: NDArray[Any], image_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Shape of a row's image: as given, else that of the row itself; a flat row is a square."""
    size = math.prod(rows.shape[1:])
    shape: Any = (image_shape,) if isinstance(image_shape, int) else image_shape
    if shape is None:
        shape = rows.shape[1:] if rows.ndim > 2 else (math.isqrt(size),) * 2
    shape = tuple(shape)
    good = len(shape) == 2 or (len(shape) == 3 and (shape[0] in _CHANNELS or shape[-1] in _CHANNELS))
    if not good or math.prod(shape) != size:
        raise ValueError(
            f"image_shape must be (height, width), or (3, height, width) or (height, width, 3) of color images, with "
            f"product {size}, the number of features; got {image_shape!r} and rows of shape {rows.shape[1:]} (None "
            "means the shape of rows, and square gray images if these are flat)."
        )
    return shape


def _reconstruct(vae: Any, rows: NDArray[np.floating]) -> NDArray[np.floating]:
    with open_coder(vae, rows) as coder:
        return coder.decode(coder.mean(coder.x)).detach().cpu().numpy()
