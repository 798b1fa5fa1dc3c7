"""The loss of a batch whose rows are in several processes: exactly that of the whole batch, and its gradient."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from riskvae.training._batch import Batch
from riskvae.training._objective import told_of
from riskvae.training._own_terms import ROWS, OwnTerms, looked_at, terms_of

__all__ = ["SharedLoss", "add_gradients", "agree_on_the_end", "same_weights", "shared_loss"]


class SharedLoss(NamedTuple):
    """What the objective makes of the terms of all rows, the same in all processes, bit for bit.

    Parameters
    ----------
    loss, parts, counted : Tensor
        As of a batch in one process.
    n_rows : int
        Rows of all processes.
    own : OwnTerms
        Terms of this process's rows; None where it has no rows.
    leaves : dict of str to (Tensor, slice)
        The same terms of all rows, at which the loss was computed, and where the own ones are.
    """

    loss: Tensor
    parts: Tensor
    counted: Tensor
    n_rows: int
    own: OwnTerms | None
    leaves: dict[str, tuple[Tensor, slice]]

    def backward(self) -> None:
        r"""Part of the gradient that is of this process's rows: the sum over processes is that of the loss.

        With the terms t of all rows, computed by the weights w, a loss is :math:`f(t(w))`, so

        .. math:: \nabla_w f = \sum_p \sum_{i \in p} \frac{\partial f}{\partial t_i} \nabla_w t_i

        over processes p and their rows. All of them know the first factor, as they know all terms; the second is a
        matter of the process that has the row. So nothing is asked of f but to be differentiable: it may weigh rows by
        ranks, thresholds or groups, or compare each row with all.
        """
        self.loss.backward()  # to the terms, and to parameters of the objective, which are the same for all
        if self.own is not None:
            self.own.backward(
                {
                    name: leaf.grad.narrow(ROWS.get(name, 0), here.start, here.stop - here.start)
                    for name, (leaf, here) in self.leaves.items()
                    if leaf.grad is not None
                }
            )


def shared_loss(net: Any, batch: Batch) -> SharedLoss | None:
    """Loss of a batch, of which this process has some rows; None where nobody has any."""
    own, values, world, criterion = None, {}, net.world, net.criterion_
    if batch.n_rows:
        with net.drawing("module"):
            own = OwnTerms(net.module_, batch, net.spare if torch.is_grad_enabled() else None)
        values = dict(own.values)
        if net.module_.holes:
            values["known"] = torch.ones_like(values["kl"]) if own.known is None else own.known
        values = {name: value.detach().to(batch.x.dtype) for name, value in values.items()}  # all send the same kind
    read, known = looked_at(criterion, batch)
    read += ("known",) if net.module_.holes else ()
    given = {name: _rows_first(name, values[name]) if values else _none(net, name, batch) for name in read}
    given |= {name: getattr(batch, name) for name in known}
    shares = world.rows(list(given.values()), world.most(net.batch_size))
    sizes = [len(part) for part in shares[0]]
    if not sum(sizes):
        return None
    here = slice(sum(sizes[: world.rank]), sum(sizes[: world.rank + 1]))
    whole = {name: torch.cat(part) for name, part in zip(given, shares, strict=True)}
    leaves = {}
    for name in read:
        leaf = whole[name].movedim(0, ROWS.get(name, 0)).contiguous()
        leaves[name] = (leaf.requires_grad_(torch.is_grad_enabled()), here)
    at = {name: leaf for name, (leaf, _) in leaves.items()}
    everything = Batch(*map(whole.get, Batch._fields))  # type: ignore[arg-type]
    terms = terms_of(at, everything, at["known"].detach() if "known" in at else None)
    with net.drawing("objective"):
        loss = criterion(terms)
        parts, counted = told_of(criterion, terms, loss)
    return SharedLoss(loss, parts, counted, sum(sizes), own, leaves)


def add_gradients(net: Any) -> None:
    """The sum of the processes' gradients for each parameter of the model, the same in all of them.

    A parameter that has a gradient in none of them keeps none, as in one process.
    """
    trained = [parameter for parameter in net.module_.parameters() if parameter.requires_grad]
    if not trained:
        return
    has = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    flat = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained]
    total = net.world.sum_(torch.cat([has, *flat]))
    given = total[: len(trained)].tolist()
    for p, value, gradient in zip(
        trained, given, total[len(trained) :].split([p.numel() for p in trained]), strict=True
    ):
        p.grad = gradient.view_as(p) if value else None


@torch.no_grad()
def same_weights(net: Any) -> None:
    """The first process's weights for all, before training and at the end of an epoch.

    New ones may come from a factory's own generator. Later ones are the same already where processors are; on others
    they differ by rounding. By more, something has changed them in one process alone.
    """
    states = [*net.module_.state_dict().values(), *net.criterion_.state_dict().values()]
    floating = [value for value in states if value.is_floating_point()]
    own = torch.cat([value.cpu().flatten().double() for value in floating])
    first = net.world.first_(own.clone())
    away = bool(((own - first).abs() > 1e-4 * (1.0 + first.abs())).any())
    others = [rank for rank, differs in enumerate(net.world.tell(away)) if differs]
    if others and len(net.history):
        raise RuntimeError(
            f"distributed: the weights of process {', '.join(map(str, others))} differ from those of process 0 after "
            f"epoch {len(net.history)}. A callback, hook or layer that changes them must do so in all processes alike, "
            "and a model that is trained further must be the same in all of them."
        )
    for value, part in zip(floating, first.split([value.numel() for value in floating]), strict=True):
        value.copy_(part.view_as(value))


def agree_on_the_end(net: Any) -> None:
    """Whether one of the processes asks for the end of the training, after its callbacks; and how long it took."""
    told = net.world.tell((net.stop_requested, net.history[-1, "dur"]))
    net.stop_requested = any(stop for stop, _ in told)
    net.history[-1]["dur"] = told[0][1]


def _rows_first(name: str, term: Tensor) -> Tensor:
    return term.movedim(ROWS.get(name, 0), 0)


def _none(net: Any, name: str, batch: Batch) -> Tensor:
    """A term of no rows."""
    width = {"nll": (net.n_draws,), "kl": (), "known": (), "z": (net.n_draws, net.module_.n_components)}
    return batch.x.new_zeros((0, *width.get(name, (net.module_.n_components,))))
