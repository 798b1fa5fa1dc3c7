"""How a model is trained: sources of rows, the record that a batch is, the module, what is minimized, the loop.

In the house: the one room that knows skorch, and no estimator. :class:`Objective` is the seam for losses of your own,
which see :class:`Terms` and, in them, the :class:`Batch`. Sources and the loop are for estimators, from their files.
"""

from riskvae.training._batch import Batch
from riskvae.training._objective import Objective, TotalCorrelationELBO, WeightedELBO
from riskvae.training._risk_objective import RiskObjective
from riskvae.training._vae import VAE, Terms

__all__ = ["VAE", "Batch", "Objective", "RiskObjective", "Terms", "TotalCorrelationELBO", "WeightedELBO"]
