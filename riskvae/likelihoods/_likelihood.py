"""The base of all observation models p(x|z): what the decoder's output means, and how rows spread around it."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from riskvae._sklearn import BaseEstimator
from riskvae._validation import column_name

__all__ = ["Likelihood"]


class Likelihood(BaseEstimator, nn.Module):
    r"""Base class of observation models p(x|z), which interpret the decoder's raw output.

    The decoder outputs ``n_values`` numbers per row, by default one for each feature. For a model of your own, override
    :meth:`mean`, :meth:`nll` and :meth:`draw`, and :meth:`check` if not every row is possible. An estimator takes it as
    ``likelihood=MyLikelihood()`` and works on a copy. If you define :meth:`each` instead of :meth:`nll`, it also
    supports missing values. The encoder sees rows as they are, unless you override :meth:`inputs`.

    As in scikit-learn, a constructor stores its parameters unchanged under their own names. A grid search then reaches
    them, as in ``likelihood__scale``, and two likelihoods are equal if their parameters are. Create buffers and
    trainable parameters in :meth:`setup`, when the number of features is known; trainable parameters are trained with
    the networks.

    Attributes
    ----------
    values_per_feature : int
        Number of values that the decoder outputs for each feature, ordered as one whole row per value; 1 unless a
        subclass sets it.
    decoder_gives : str
        The same in words, for the error message about a decoder of another width.
    beside_normal : bool
        Whether :meth:`~riskvae.BetaVAE.impute` may combine the model with a normal distribution of the rows, if values
        are missing: for values that are unbounded and can be drawn. False unless a subclass sets it.
    n_features, n_values, n_inputs : int
        Width of a row, of the decoder's output and of the encoder's input, once prepared.
    names : sequence, default=None
        Names of the features, for messages.

    Examples
    --------
    A Laplace likelihood, whose loss is the absolute error:

    >>> import torch
    >>> from riskvae import BetaVAE, datasets
    >>> from riskvae.likelihoods import Likelihood
    >>> class Laplace(Likelihood):
    ...     def __init__(self, scale=1.0):
    ...         super().__init__()
    ...         self.scale = scale
    ...
    ...     def mean(self, raw):
    ...         return raw
    ...
    ...     def nll(self, x, raw):
    ...         return -torch.distributions.Laplace(raw, self.scale).log_prob(x).sum(-1)
    ...
    ...     def draw(self, raw, generator):
    ...         return torch.distributions.Laplace(raw, self.scale).sample()  # from the global generator, seeded here
    >>> X = datasets.make_heteroscedastic(200, random_state=0).data
    >>> vae = BetaVAE(n_components=2, likelihood=Laplace(scale=0.5), random_state=0).fit(X)
    >>> vae.sample(2, observation_noise=True).shape
    (2, 4)
    """

    values_per_feature: int = 1
    decoder_gives: str = "one value per feature"
    affine: bool = False  # whether it fits rows in other units as well: Mixed standardizes its columns
    beside_normal: bool = False

    n_features: int
    names: Sequence[Any] | None = None

    def __init__(self) -> None:  # scikit-learn reads parameters off it
        super().__init__()

    @property
    def n_values(self) -> int:
        """Width of the decoder's output."""
        return self.values_per_feature * self.n_features

    @property
    def n_inputs(self) -> int:
        """Width of the encoder's input."""
        return self.n_features

    def prepare(self, n_features: int) -> Self:
        """Set the width of a row, then call ``setup``; ``fit`` does so on its copy."""
        self.n_features = n_features
        self.setup(n_features)
        if (k := self.values_per_feature) > 1 and self.decoder_gives == Likelihood.decoder_gives:
            self.decoder_gives = f"{k} values per feature, a whole row of each in turn"
        return self

    def setup(self, n_features: int) -> None:
        """Create what depends on the width of a row, buffers and trainable parameters; meant to be overridden."""

    def mean(self, raw: Tensor) -> Tensor:
        """Central rows (..., n_features) for raw output (..., n_values): expectations, or medians."""
        raise NotImplementedError(f"{type(self).__name__} has no mean(raw); define it")

    def central(self, raw: Tensor) -> Tensor:
        """Central rows (n, n_features) for raw output (n_draws, n, n_values) at several draws of each row's code."""
        return self.mean(raw).mean(0)

    def inputs(self, x: Tensor) -> Tensor:
        """The encoder's input (n, n_inputs) for rows; NaN of a missing value stays NaN."""
        return x

    @property
    def shows_rows(self) -> bool:
        """Whether the encoder sees rows as they are."""
        return type(self).inputs is Likelihood.inputs

    def expected_inputs(self, raw: Tensor) -> Tensor:
        """Expected ``inputs(x)``, (..., n_inputs), for raw output."""
        return self.inputs(self.mean(raw))

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats (..., n) of rows x (n, n_features), over any leading dimensions of ``raw`` (..., n, n_values)."""
        if type(self).each is Likelihood.each:
            raise NotImplementedError(f"{type(self).__name__} has no nll(x, raw); define it, or each(x, raw)")
        return self.each(x, raw).sum(-1)

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats (..., n, n_features) of single values, whose sum over features is :meth:`nll`.

        Without this method, a model cannot be fitted to rows with missing values; of these, only known values count.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no each(x, raw), the losses of single values, so X must not have missing "
            "values. Define it, or impute X first."
        )

    def known_nll(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats (..., n) of the known values of rows; missing values (NaN) are not part of the sum."""
        missing = x.isnan()
        x = torch.where(missing, self.mean(raw).detach(), x)  # any value that may be: NaN would spoil gradients
        return self.each(x, raw).masked_fill(missing, 0.0).sum(-1)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (n, n_features) drawn from p(x|z), one per row of ``raw`` (n, n_values), on the CPU like both arguments.

        Use the generator, which ``random_state`` seeds. Torch's global generator, from which ``torch.distributions``
        draws, is seeded likewise during the call.
        """
        raise NotImplementedError(f"{type(self).__name__} has no draw(raw, generator); define it")

    def check(self, x: Tensor) -> None:
        """Raise a ValueError that says what to do if rows are impossible; values are finite, or NaN if missing."""

    def check_seen(self, x: Tensor) -> None:
        """The same check for rows given to a fitted model whose encoder does not see rows as they are."""
        self.check(x)

    def check_names(self, names: list[Any]) -> None:
        """Raise a ValueError if a table has other columns, or the same in another order."""

    def first(self, x: Tensor, where: Tensor) -> str:
        """The first value of rows for which a condition holds, and its place, for a message."""
        row, column = where.nonzero()[0].tolist()
        return f"{float(x[row, column]):g} in row {row}, {column_name(column, self.names)}"

    # Rows as users write them, where those are not numbers alone.

    def codes(self, X: Any) -> Any:
        """Replace the labels of categories in rows by numbers."""
        return X

    def named(self, rows: NDArray[Any]) -> list[NDArray[Any]] | None:
        """Columns of rows with the labels of categories; None if rows need no translation."""
        return None

    # What is learned of the first rows. A learned scale moves beside the networks' gradient steps; nothing to do
    # without one.

    def fit_scale(self, x: Tensor) -> None:
        """Learn units from the first rows, such as the initial value of a learned scale from their spread."""

    def relative_spread(self, x: Tensor) -> float:
        """Spread of rows relative to that from which a learned scale started."""
        return 1.0

    def update_scale(self, nll: Tensor) -> None:
        """Move a learned scale towards the optimal one for a batch, given its mean negative log-likelihood."""

    def excess(self) -> float:
        """A learned scale relative to the spread from which it started: above 1, the mean of the rows is better."""
        return 0.0
