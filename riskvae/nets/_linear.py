"""The affine layer of our networks, by the faster of torch's matrix products on the CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """Affine map ``x W^T + b`` with Xavier-uniform weights, zero bias, and faster float32 training on CPU.

    Torch hands float32 matrix products on x86 to MKL, which keeps to AVX2 on processors of other makers;
    oneDNN, which torch also carries, uses AVX-512 wherever the processor has it (about twice the speed on
    AMD Zen 5). So on such processors this layer calls oneDNN where that is transparent: in training and
    under :class:`torch.inference_mode`. Everywhere else, in models that are exported too, it is a plain
    :class:`torch.nn.Linear`.
    """

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.xavier_uniform_(self.weight, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if (
            _ONEDNN
            and (self.training or (torch.is_inference_mode_enabled() and not torch.compiler.is_compiling()))
            and self.bias is not None
            and x.dim() == 2
            and x.dtype == self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
        ):
            if not self.training:  # in inference mode: no gradient, and no price of asking for none
                return _matmul(x, self.weight, self.bias)
            return _OneDNNLinear.apply(x, self.weight, self.bias)
        return super().forward(x)


def _has_fast_onednn() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_ONEDNN = _has_fast_onednn()


def _onednn(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` by oneDNN, which takes transposed views without copying them."""
    return torch.ops.mkldnn._linear_pointwise(x, w, bias, "none", [], "")


if _ONEDNN and not hasattr(torch.ops.riskvae, "linear"):  # once, also when this module is reloaded
    # Inductor rewrites the oneDNN operator for frozen weights only, and fails on trainable ones; an operator
    # of our own stays opaque to it.
    _library = torch.library.Library("riskvae", "DEF")
    _library.define("linear(Tensor x, Tensor w, Tensor? bias) -> Tensor")
    _library.impl("linear", _onednn, "CPU")
    _library.impl("linear", lambda x, w, bias: x.new_empty(x.shape[0], w.shape[0]), "Meta")


def _matmul(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.riskvae.linear(x, w, bias) if torch.compiler.is_compiling() else _onednn(x, w, bias)


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _matmul(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = _matmul(grad, weight.t()) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):  # of frozen layers, as in an attack on the input
            return grad_x, None, None
        # A contiguous left factor saves oneDNN a copy of both.
        grad_t = grad.t().contiguous()
        return grad_x, _matmul(grad_t, x.t()), grad_t.sum(1)
