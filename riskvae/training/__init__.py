"""How a model is trained: sources of rows, batches, the torch module, the objective, the loop.

In the house: this is the one package that depends on skorch; it does not depend on the estimators. To use a loss of
your own, subclass :class:`Objective`, which receives :class:`Terms` and, in them, the :class:`Batch`. Sources and the
loop are internal.
"""

from riskvae.training._batch import Batch
from riskvae.training._objective import Objective, TotalCorrelationELBO, WeightedELBO
from riskvae.training._penalized import Penalized
from riskvae.training._risk_objective import RiskObjective
from riskvae.training._vae import VAE, Terms

__all__ = ["VAE", "Batch", "Objective", "Penalized", "RiskObjective", "Terms", "TotalCorrelationELBO", "WeightedELBO"]
