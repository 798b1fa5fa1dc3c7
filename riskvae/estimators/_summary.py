"""What one looks at first after a fit: sizes, epochs, rate, active coordinates, and how far to trust the answers."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

from riskvae.likelihoods._scaled import ScaledLikelihood
from riskvae.training._vitals import noise_of

__all__ = ["Summary", "SummaryMixin"]


class Summary:
    """A short table about a fitted model, as text, and as HTML in a notebook.

    Parameters
    ----------
    title : str
        The estimator's class.
    rows : dict of str to str
        What each line says, by its name.

    Examples
    --------
    >>> from riskvae.estimators import Summary
    >>> Summary("BetaVAE", {"rate": "5.9 nats per row"})
    BetaVAE
      rate  5.9 nats per row
    """

    title: str
    rows: dict[str, str]

    def __init__(self, title: str, rows: Mapping[str, str]) -> None:
        self.title = title
        self.rows = dict(rows)

    def __repr__(self) -> str:
        width = max(map(len, self.rows), default=0)
        return "\n".join([self.title, *(f"  {name:{width}}  {told}" for name, told in self.rows.items())])

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(told)}</td></tr>'
            for name, told in self.rows.items()
        )
        return f"<table><caption>{html.escape(self.title)}</caption><tbody>{cells}</tbody></table>"


class SummaryMixin:
    """The method of a fitted estimator that says what came of its training."""

    def summary(self: Any) -> Summary:
        """Describe the fitted model: sizes, epochs, rate, active coordinates, noise, and what it was calibrated with.

        The rate is the mean KL term: the nats of information that the latent coordinates hold about a row. A
        coordinate is active if its posterior means vary by more than .01 over rows, as last counted in training.

        Returns
        -------
        Summary
            Prints as text, and shows as a table in notebooks; ``rows`` holds the lines.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from riskvae import BetaVAE
        >>> vae = BetaVAE(n_components=4, max_epochs=20, random_state=0).fit(load_digits().data / 16)
        >>> list(vae.summary().rows)
        ['model', 'networks', 'training', 'reconstruction', 'rate', 'active', 'noise']
        """
        self._check_fitted()
        return Summary(type(self).__name__, dict(self._summary_rows()))

    def _summary_rows(self: Any) -> Iterable[tuple[str, str]]:
        module, last = self.module_, self.history_[self.best_iter_ - 1] if self.n_iter_ else {}
        name = type(module.likelihood).__name__
        yield "model", f"{self.n_features_in_:,} features, {module.n_components} latent coordinates, {name} likelihood"
        yield "networks", ", ".join(f"{part} of {_n_weights(getattr(module, part)):,} weights" for part in _NETWORKS)
        yield "training", self._told_of_training()
        if "train_kl" in last:  # a callback may have ended the training before its first epoch did
            yield "reconstruction", _per_row(last, "reconstruction")
            yield "rate", _per_row(last, "kl")
        if steps := self._steps_of_refinement(None):
            yield "refinement", f"{steps} step{'' if steps == 1 else 's'} for the posterior of each row"
        counted = [row for row in self.history_ if "active" in row]
        if counted:
            epoch, active = counted[-1]["epoch"], counted[-1]["active"]
            yield "active", f"{active} of {module.n_components} latent coordinates, counted after epoch {epoch}"
        if isinstance(module.likelihood, ScaledLikelihood):
            scale = noise_of(module.likelihood)
            each = ", the geometric mean over features" if module.likelihood.by_gradient else ""
            known = f"fixed scale {self.noise_scale_:.3g}" if scale is None else f"learned scale {scale:.3g}{each}"
            yield "noise", known

    def _told_of_training(self: Any) -> str:
        kept, n = self.best_iter_, len(self.history_)
        steps = sum(row.get("train_batch_count", 0) for row in self.history_)
        seconds = sum(row.get("dur", 0.0) for row in self.history_)
        which = "" if kept == n else f"; the weights are those of epoch {kept}"
        counts = f"{n} epoch{'' if n == 1 else 's'}, {steps:,} gradient step{'' if steps == 1 else 's'}"
        return f"{counts}, {seconds:.1f} s{which}"


_NETWORKS = ("encoder", "decoder")


def _n_weights(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _per_row(row: Mapping[str, Any], what: str) -> str:
    held_out = f", held out {row[f'valid_{what}']:.4g}" if f"valid_{what}" in row else ""
    return f"{row[f'train_{what}']:.4g} nats per row{held_out}"
