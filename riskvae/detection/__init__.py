"""What a trained model says of rows as a whole: their density, and how held-out rows measure others.

In the house: this room knows tensors, arrays and the losses, and no estimator. It has no public names: estimators
import ``RowDensity`` from ``_density`` and ``Calibration`` from ``_calibration``, and show users what these say.
"""

__all__: list[str] = []
