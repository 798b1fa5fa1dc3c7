"""Encoder and decoder networks.

Networks are created by factories ``(n_in, n_out) -> nn.Module`` that map rows to rows, so that an estimator can set
their size when it sees the data. Estimators use :func:`mlp` by default. :func:`conv_encoder` and :func:`conv_decoder`
are for images; :func:`lipschitz_encoder` and :func:`lipschitz_decoder` have a Lipschitz constant of your choice. You
can also pass your own factory:

>>> from torch import nn
>>> def encoder(n_in, n_out):
...     return nn.Sequential(nn.Linear(n_in, 32), nn.Tanh(), nn.Linear(32, n_out))

An encoder's ``n_out`` is twice the number of latent dimensions (means, then unconstrained scales).

In the house: this package depends only on torch and on facts about the processor; all others may use its public names.
"""

from riskvae.nets._convolutions import conv_decoder, conv_encoder
from riskvae.nets._group_sort import GroupSort
from riskvae.nets._linear import Linear
from riskvae.nets._lipschitz import lipschitz_decoder, lipschitz_encoder
from riskvae.nets._mlp import ACTIVATIONS, mlp
from riskvae.nets._posterior import Posterior, unit_softplus
from riskvae.nets._standardize import Standardize

__all__ = [
    "ACTIVATIONS", "GroupSort", "Linear", "Posterior", "Standardize", "conv_decoder", "conv_encoder",
    "lipschitz_decoder", "lipschitz_encoder", "mlp", "unit_softplus",
]  # fmt: skip
