"""The affine layer of our networks, by the faster of torch's matrix products on the CPU."""

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from riskvae._processor import Processor, processor


class Linear(nn.Linear):
    """Affine map ``x W^T + b`` with Xavier-uniform weights, zero bias, and faster float32 training on CPU.

    On x86, torch passes float32 matrix products to MKL, which is limited to AVX2 on processors of makers other than
    Intel; oneDNN, which torch also includes, uses AVX-512. It is about twice as fast on cores with 512-bit units, such
    as AMD's since Zen 5, but no faster on Intel's, or on Zen 4, which takes two steps for 512 bits. In training, this
    layer therefore uses oneDNN on AMD's processors since Zen 5, for products that are large enough. Under
    :class:`torch.inference_mode` it uses oneDNN wherever there is AVX-512: results for a row are then bit for bit
    independent of the other rows and of the number of threads. In all other cases, including exported models, it is a
    plain :class:`torch.nn.Linear`.

    The choice depends only on the type of the processor, never on timings, so the same fit gives the same digits in
    every process. To override it, set the environment variable ``RISKVAE_MATMUL`` (read at import) to "torch" or
    "onednn" instead of "auto". :func:`riskvae.show_versions` shows the choice and the reason.
    """

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.xavier_uniform_(self.weight, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.dim() == 2
            and (
                _ONEDNN and x.shape[0] * self.weight.numel() >= _LEAST
                if self.training
                else _IN_INFERENCE and torch.is_inference_mode_enabled() and not torch.compiler.is_compiling()
            )
            and self.bias is not None
            and x.dtype == self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
        ):
            if not self.training:  # in inference mode: no gradient, and no price of asking for none
                return _matmul(x, self.weight, self.bias)
            return _OneDNNLinear.apply(x, self.weight, self.bias)
        return super().forward(x)


# In training, products of fewer multiplications (rows x inputs x outputs) go to torch everywhere: what Python adds to a
# layer, forward and backward, is the time in which oneDNN saves as much on about 4 million of them.
_LEAST = 2**22

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def choose(asked: str, machine: Processor, *, available: bool, avx512: bool) -> tuple[bool, str]:
    """Whether float32 products of layers go to oneDNN, and why.

    Parameters
    ----------
    asked : str
        The value of RISKVAE_MATMUL: "auto", "torch" or "onednn".
    machine : Processor
        What is known of it.
    available, avx512 : bool
        Whether this torch has oneDNN's product, and uses AVX-512.

    Raises
    ------
    ValueError
        For another value of RISKVAE_MATMUL.
    """
    if asked not in ("auto", "torch", "onednn"):
        raise ValueError(
            f"RISKVAE_MATMUL must be 'auto', 'torch' or 'onednn'; got {asked!r}. Set the environment variable to one "
            "of them, or unset it, before riskvae is imported."
        )
    if asked == "torch":
        return False, "asked for by RISKVAE_MATMUL"
    if not available:
        if asked == "onednn":
            warnings.warn(
                "RISKVAE_MATMUL='onednn': this torch has no oneDNN for its products, so its own are used. Set 'auto', "
                "or install a torch for x86.",
                stacklevel=2,
            )
        return False, "this torch has no other"
    if asked == "onednn":
        return True, "asked for by RISKVAE_MATMUL"
    if not avx512:
        return False, "without AVX-512 oneDNN has no advantage"
    if machine.vendor == "AMD" and (machine.family or 0) >= 26:
        return True, "AMD since Zen 5 computes 512 bits at a time, which torch's own products do not use"
    if machine.vendor == "AMD":
        return False, "AMD before Zen 5 computes 256 bits at a time, which torch's own products use"
    if machine.vendor == "Intel":
        return False, "on Intel torch's own products use AVX-512"
    return False, "nothing is known of this processor's AVX-512"


_ONEDNN, _WHY = choose(
    os.environ.get("RISKVAE_MATMUL", "auto"),
    processor(),
    available=_AVAILABLE,
    avx512=_AVX512,
)


# In inference oneDNN makes products on all processors with AVX-512: of its products a row has the same digits in any
# company and on any number of threads.
_IN_INFERENCE = _AVAILABLE and _AVX512 and os.environ.get("RISKVAE_MATMUL") != "torch"


def _onednn(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` by oneDNN, which takes transposed views without copying them."""
    return torch.ops.mkldnn._linear_pointwise(x, w, bias, "none", [], "")


if _AVAILABLE and not hasattr(torch.ops.riskvae, "linear"):  # once, also when this module is reloaded
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
