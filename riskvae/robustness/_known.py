"""What is known of an encoder's inside, and why not where it is not."""

import copy
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from riskvae.robustness._coder import Coder
from riskvae.robustness._lipschitz import around, encoder_layers, encoder_of
from riskvae.robustness._network import Network, UnknownLayerError, take_apart

__all__ = ["Known"]

# Numbers in the linear maps of one row, at most: a gigabyte.
_MOST = 2**27


class Known(NamedTuple):
    """Layers as a chain, where all have a constant; steps of the network, where each is understood; else notes."""

    layers: list[nn.Module]
    network: Network | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, coder: Coder, methods: tuple[str, ...]) -> Self:
        """Look into the encoder as far as some methods need."""
        encoder = encoder_of(coder)
        if isinstance(encoder, str):
            return cls([], None, (f"lipschitz, proven and linear_radius are not known: {encoder}",))
        layers: Any = encoder_layers(encoder)
        network: Any = _network(encoder, coder) if "proven" in methods else None
        notes = [f"lipschitz and linear_radius are not known: {layers}"] if isinstance(layers, str) else []
        notes += [f"proven is not known: {network}"] if isinstance(network, str) else []
        return cls(
            [] if isinstance(layers, str) else layers, None if isinstance(network, str) else network, tuple(notes)
        )


@torch.no_grad()
def _compared(network: Network, encoder: nn.Module, coder: Coder) -> list[Tensor]:
    """What goes into the activations; raise where the steps give another mean than the module itself.

    A module may know that its steps are being followed, and code that changes values in place may hide from that.
    """
    twin, k = copy.deepcopy(encoder).cpu().double().eval(), coder.n_components
    before: list[Tensor] = []
    for rows in around(coder):
        rows = rows.detach().cpu().double()
        expected, (found, before) = twin(rows.clone()).flatten(1)[:, :k], network(rows)
        found = found.flatten(1)[:, :k]
        known = expected.isfinite() if expected.shape == found.shape else None
        if known is None or not ((found - expected).abs()[known] <= 1e-9 * (1.0 + expected.abs()[known])).all():
            raise UnknownLayerError("its steps, as far as they can be followed, give a different mean")
    return before


def _network(encoder: nn.Module, coder: Coder) -> Network | str:
    try:
        network = take_apart(encoder)
        before = _compared(network, encoder, coder)
    except UnknownLayerError as error:
        return str(error)
    except Exception as error:
        return f"its steps cannot be repeated in double precision ({type(error).__name__}: {error})"
    units = [a[:1].numel() for a in before]
    numbers = sum(units) * coder.x[0].numel() + sum(a * b for i, a in enumerate(units) for b in units[:i])
    if numbers > _MOST:
        return f"the linear maps of one row have {numbers:.2g} numbers, and {_MOST:.2g} are held at most"
    return network
