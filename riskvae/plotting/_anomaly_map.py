"""Display of what is unusual in images: input, median, scores, discoveries."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae._validation import image_shape_of
from riskvae.plotting._reconstruction import ReconstructionDisplay


class AnomalyMapDisplay(ReconstructionDisplay):
    """Images under a QuantileVAE, one per column: input, median, z-scores (red above the median), discoveries.

    Create it with :meth:`from_estimator`.

    Parameters
    ----------
    lines : dict of str to ndarray of shape (n_images, n_features)
        Images by line: "input", "median", "z-score", "discoveries", and "truth" if it is known.
    image_shape : (height, width)
        Height and width of the images.

    Attributes
    ----------
    figure_, axes_, images_
        As in :class:`ReconstructionDisplay`.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from riskvae import QuantileVAE
    >>> from riskvae.datasets import make_lesions
    >>> from riskvae.plotting import AnomalyMapDisplay
    >>> healthy, ill = make_lesions(50, size=16, n_lesions=0, random_state=0), make_lesions(3, size=16, random_state=1)
    >>> vae = QuantileVAE(n_components=4, max_epochs=5, random_state=0).fit(healthy.data)
    >>> display = AnomalyMapDisplay.from_estimator(vae, ill.data, truth=ill.lesions)
    >>> list(display.lines)
    ['input', 'median', 'z-score', 'discoveries', 'truth']
    """

    Z_REACH = 5.0  # where the colors end

    @classmethod
    def from_estimator(
        cls,
        vae: Any,
        X: ArrayLike,
        *,
        fdr: float = 0.05,
        alternative: str = "two-sided",
        mask: ArrayLike | None = None,
        truth: ArrayLike | None = None,
        image_shape: Sequence[int] | None = None,
        figure: Any = None,
    ) -> Self:
        """Score the pixels of images and draw the results.

        Parameters
        ----------
        vae : QuantileVAE
            Fitted model.
        X : array-like of shape (n_images, n_features)
            A few rows.
        fdr, alternative, mask
            As in :meth:`riskvae.QuantileVAE.detect_features`.
        truth : array-like of bool, shape (n_images, n_features), default=None
            Pixels that should be found; drawn at the bottom.
        image_shape : (height, width), default=None
            None means square images.
        figure : matplotlib Figure or SubFigure, default=None
            Figure to draw on; None creates one.

        Returns
        -------
        AnomalyMapDisplay
        """
        rows = np.asarray(X)
        shape = image_shape_of(rows, image_shape)
        found = vae.detect_features(X, fdr, alternative=alternative, mask=mask)
        z = vae.z_scores(X)
        lines = {
            "input": rows,
            "median": vae.reconstruct(X),
            "z-score": z if mask is None else np.where(np.broadcast_to(mask, z.shape), z, 0.0),
            "discoveries": found.astype(float),
        }
        if truth is not None:
            lines["truth"] = np.asarray(truth, dtype=float).reshape(found.shape)
        return cls(lines, shape).plot(figure)

    def _colors(self, label: str, values: NDArray[np.floating]) -> dict[str, Any]:
        if label == "z-score":
            return {"cmap": "RdBu_r", "vmin": -self.Z_REACH, "vmax": self.Z_REACH}
        if label in ("discoveries", "truth"):
            return {"cmap": "Reds", "vmin": 0.0, "vmax": 1.0}
        return {**super()._colors(label, values), "cmap": "gray"}
