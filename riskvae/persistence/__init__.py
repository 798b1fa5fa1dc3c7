"""Models in files that hold no code: a zip of JSON and safetensors, which opens without executing anything.

:meth:`~riskvae.estimators.BaseVAE.save` writes one, :func:`load` reads it. ``python -m riskvae.inspect FILE`` tells
what is inside without loading torch.

In the house: this room knows file formats and values; what of an estimator goes into a file, estimators say.
"""

from riskvae.persistence._archive import FORMAT
from riskvae.persistence._load import load

__all__ = ["FORMAT", "load"]
