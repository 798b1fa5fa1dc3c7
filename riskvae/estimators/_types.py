"""The types of parameters, as editors and type checkers show them."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn

from riskvae.likelihoods import Likelihood

__all__ = [
    "Activation",
    "Auto",
    "Device",
    "Distributed",
    "Learned",
    "LikelihoodLike",
    "Network",
    "OutputActivation",
    "Precision",
    "RandomState",
]

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "softplus"]
Auto = Literal["auto"]
Device = str | torch.device
Distributed = Literal["replicated", "sharded"]
Learned = Literal["learned"]
LikelihoodLike = Literal["gaussian", "bernoulli"] | Likelihood
Network = Callable[[int, int], nn.Module]
OutputActivation = Literal["auto", "identity", "sigmoid"]
Precision = Literal["float32", "tf32", "bfloat16"]
RandomState = int | np.random.RandomState | None
