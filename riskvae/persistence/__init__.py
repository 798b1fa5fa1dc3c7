"""Save and load models in files that contain no code: zip archives of JSON and safetensors.

Opening a file executes nothing. :meth:`~riskvae.estimators.BaseVAE.save` writes files and :func:`load` reads them.
``python -m riskvae.inspect FILE`` shows what is inside without loading torch.

In the house: this package knows file formats and values; estimators decide what goes into a file.
"""

from riskvae.persistence._archive import FORMAT
from riskvae.persistence._load import load

__all__ = ["FORMAT", "load"]
