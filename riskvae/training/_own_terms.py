"""Terms of a batch with their graph, or without the graph of what may not weigh, which is made once that is known."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from riskvae._validation import is_ours
from riskvae.losses import kl_divergence
from riskvae.nets import Posterior
from riskvae.training._batch import Batch
from riskvae.training._objective import told_of
from riskvae.training._vae import VAE, Terms

__all__ = ["ROWS", "OwnTerms", "looked_at", "spared_loss", "terms_of"]

# Dimension of the rows, in the fields of Terms that are tensors.
ROWS = {"nll": 1, "kl": 0, "z": 1}


class OwnTerms:
    r"""Terms of rows, to be differentiated at slopes of a loss that are known later.

    A loss :math:`f(t(w))` of terms t, computed by weights w, has the gradient :math:`\sum_i (\partial f / \partial t_i)
    \nabla_w t_i`. Terms whose slope is 0 need no graph: of a tail of mass eps these are all rows but a share of eps. So
    the terms are computed without a graph, then the loss and its slopes, then once more, with a graph, the terms that
    weigh. That is exact where the networks treat rows apart and alike in both passes (:class:`Sparing`).

    Parameters
    ----------
    vae : VAE
        The model.
    batch : Batch
        Rows, with their noise.
    spare : {None, "decoder", "rows"}
        Whose graph waits: nobody's, the decoder's, or that of both networks.
    """

    def __init__(self, vae: VAE, batch: Batch, spare: str | None) -> None:
        self.vae, self.batch, self.spare = vae, batch, spare
        noise = batch.noise.transpose(0, 1)  # type: ignore[union-attr]  # drawn for every epoch
        if spare is None:
            terms = vae(batch, noise)
        elif spare == "rows":
            with torch.no_grad():
                terms = vae(batch, noise)
        else:
            posterior = vae.encode(batch.x)
            z = posterior.mean + posterior.scale * noise
            with torch.no_grad():
                nll, known = vae.nll_at(batch.x, z), vae.known(batch.x)
            terms = Terms(nll, kl_divergence(*posterior), z, posterior, batch, known)
        self.known = terms.known
        mean, scale = terms.posterior
        self.values = {"nll": terms.nll, "kl": terms.kl, "z": terms.z, "mean": mean, "scale": scale}

    def backward(self, slopes: Mapping[str, Tensor]) -> None:
        """Gradients of the networks' weights where the loss has these slopes in the terms."""
        at, given = dict(self.values), dict(slopes)
        if self.spare is not None:
            at |= self._that_weigh(given)
        names = [name for name in given if at[name].requires_grad]
        if names:
            torch.autograd.backward([at[name] for name in names], [given[name].to(at[name].dtype) for name in names])

    def _that_weigh(self, slopes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Terms that weigh, with their graph; their slopes take the place of all."""
        draws, rows = slopes["nll"].nonzero(as_tuple=True)
        x, slopes["nll"] = self.batch.x, slopes["nll"][draws, rows]
        if self.spare == "decoder":
            return {"nll": self.vae.nll_at(x[rows], self.values["z"][draws, rows])} if len(rows) else {}
        chosen = slopes["kl"] != 0 if "kl" in slopes else torch.zeros(len(x), dtype=torch.bool, device=x.device)
        chosen[rows] = True
        places = chosen.nonzero()[:, 0]
        if not len(places):
            return {}
        place = chosen.cumsum(0) - 1
        mean, scale = self.vae.encode(x[places])
        if "kl" in slopes:
            slopes["kl"] = slopes["kl"][places]
        at = place[rows]
        z = mean[at] + scale[at] * self.batch.noise[rows, draws]  # type: ignore[index]
        nll = {"nll": self.vae.nll_at(x[rows], z)} if len(rows) else {}
        return {"kl": kl_divergence(mean, scale), **nll}


def spared_loss(net: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of a batch, what the history tells of it, and the nats of a learned noise; leaves gradients behind."""
    own, criterion = OwnTerms(net.module_, batch, net.spare), net.criterion_
    leaves = {name: own.values[name].detach().requires_grad_() for name in looked_at(criterion, batch)[0]}
    terms = terms_of(leaves, batch, own.known)
    loss = criterion(terms)
    parts, counted = told_of(criterion, terms, loss)
    loss.backward()
    own.backward({name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None})
    return loss, parts, counted


def looked_at(criterion: nn.Module, batch: Batch) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Terms and fields of a batch that an objective reads: its own word for it where it is ours, else all."""
    there = tuple(name for name in Batch._fields if getattr(batch, name) is not None)
    if is_ours(criterion.written):
        return criterion.reads, tuple(name for name in criterion.needs if name in there)  # type: ignore[union-attr,return-value]
    return ("nll", "kl", "z", "mean", "scale"), there


def terms_of(at: Mapping[str, Tensor], batch: Batch, known: Tensor | None) -> Terms:
    """Terms of a batch from tensors by name; None where nobody looks."""
    posterior = Posterior(at.get("mean"), at.get("scale"))
    return Terms(at["nll"], at["kl"], at.get("z"), posterior, batch, known)  # type: ignore[arg-type]
