"""A function of a fitted module and rows, chunk by chunk, in the dtype of the rows."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from riskvae._machine import device_for, in_one_thread, prepare_process, resolve_device, torch_as_usual
from riskvae._validation import check_parameters, compute_dtype, has_missing
from riskvae.estimators._parameters import ParametersMixin
from riskvae.estimators._serving import serving_copy
from riskvae.training._refine import MOST_AT_ONCE

__all__ = ["CHUNK", "MappingMixin"]

Array = NDArray[Any]

# Values per chunk of rows: large enough to keep the cores busy, small beside the data.
CHUNK = 2**22
# Values that one thread computes as soon as several do.
_FEW = 2**17


class MappingMixin(ParametersMixin):
    """Where a fitted module is, and how it is asked about rows."""

    net_: Any  # skorch's NeuralNet, which carries no types
    _placed: Any  # what device was when the model was put there

    def __sklearn_is_fitted__(self) -> bool:
        return "net_" in self.__dict__

    @property
    def module_(self) -> Any:
        """Fitted model, a torch module, on the device set by the parameter ``device``."""
        if self.device != self._placed:
            self.net_.move_to(resolve_device(self.device))
            self._placed = self.device
        return self.net_.module_

    @property
    def device_(self) -> torch.device:
        """Device of the model."""
        return next(self.module_.parameters()).device

    def _steps_of_refinement(self, refine: int | None) -> int:
        """Steps that a call asks for, or else the estimator."""
        given = self.refine if refine is None else refine  # it may be set after fit
        check_parameters(type(self).__name__, {"refine": given}, {"refine": self._rules["refine"]})
        return int(given)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            check_is_fitted(self)

    def _map_rows(
        self,
        function: Callable[[Any, Tensor], tuple[Tensor, ...]],
        rows: Array,
        *,
        width: int | None = None,
        module: Any = None,
        holes: bool | None = None,
        refine: int | None = None,
    ) -> tuple[Array, ...]:
        """Outputs of a function of (module, rows) by chunks, computed in the rows' dtype.

        With ``holes`` the module looks for missing values, which the function makes; None asks the rows.
        """
        prepare_process()
        n_steps = self._steps_of_refinement(refine)
        dtype = compute_dtype(rows)
        device = device_for(dtype, self.device_)
        numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
        widest = max(rows.shape[1], self.module_.widest)
        width = max(width or 0, widest * (MOST_AT_ONCE if n_steps else 1))
        chunk = max(1, CHUNK // width)
        outputs: tuple[Array, ...] = ()
        holes = has_missing(rows) if holes is None else holes
        with torch_as_usual(device), torch.inference_mode():
            module = self.module_ if module is None else module
            module = serving_copy(self.net_.copies, module, device, dtype, holes, n_steps)
            for start in range(0, len(rows), chunk):
                x = torch.tensor(np.ascontiguousarray(rows[start : start + chunk], numpy_dtype), device=device)
                # So that answers are the same on any number of threads.
                few = len(x) * width <= _FEW
                with in_one_thread() if few and device.type == "cpu" else nullcontext():
                    parts = function(module, x)
                if not outputs:
                    outputs = tuple(np.empty((len(rows), *part.shape[1:]), numpy_dtype) for part in parts)
                for output, part in zip(outputs, parts, strict=True):
                    output[start : start + chunk] = part.numpy(force=True)
        return outputs
