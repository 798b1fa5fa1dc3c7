"""What an encoder says of a row: a diagonal Gaussian."""

import math
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

# softplus(raw + _UNIT) is 1 at raw = 0.
_UNIT = math.log(math.e - 1.0)


def unit_softplus(raw: Tensor) -> Tensor:
    r"""Map unconstrained values to positive ones: :math:`\log(1 + (e - 1) e^x)`.

    It is 1 at 0, where an untrained network starts, and nearly linear above.

    Parameters
    ----------
    raw : Tensor
        Unconstrained values.

    Returns
    -------
    Tensor
        Positive values, of the same shape.

    Examples
    --------
    >>> import torch
    >>> unit_softplus(torch.tensor([-1.0, 0.0, 10.0]))
    tensor([ 0.4899,  1.0000, 10.5414])
    """
    return F.softplus(raw + _UNIT)


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z|x): ``mean`` and ``scale`` (standard deviation), each (n, n_components)."""

    mean: Any
    scale: Any
