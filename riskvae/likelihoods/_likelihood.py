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
    r"""Observation model p(x|z), which reads the decoder's raw output.

    The decoder gives ``n_values`` numbers for a row, by default one for each feature. For a model of your own, override
    :meth:`mean`, :meth:`nll` and :meth:`draw`, and :meth:`check` where not every row is possible. An estimator
    takes it as ``likelihood=MyLikelihood()`` and works on a copy. With :meth:`each` in place of :meth:`nll`, it serves
    rows with missing values, too. The encoder sees rows as they are, unless :meth:`inputs` says otherwise.

    A constructor keeps its parameters under their own names and as they are, as in scikit-learn: then
    ``likelihood__scale`` reaches them in a grid search, and two likelihoods are the same if their parameters are.
    Buffers and trainable parameters are made in :meth:`setup`, once the number of features is known; what is
    trainable is trained with the networks.

    Attributes
    ----------
    values_per_feature : int
        Numbers that the decoder gives for each feature, a whole row of each in turn; 1 unless a subclass says
        otherwise.
    decoder_gives : str
        The same in words, for the message to a decoder of another width.
    beside_normal : bool
        Whether a normal distribution of the rows may stand beside the model where values are missing, in
        :meth:`~riskvae.BetaVAE.impute`: where values may lie anywhere and can be drawn. False unless a subclass says
        otherwise.
    n_features, n_values, n_inputs : int
        Width of a row, of the decoder's output and of what the encoder sees of a row, once prepared.
    names : sequence, default=None
        What the features are called, for messages.

    Examples
    --------
    Laplace's, whose loss is the absolute error:

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
        """Width of what the encoder sees of a row."""
        return self.n_features

    def prepare(self, n_features: int) -> Self:
        """Learn the width of a row, then call ``setup``; ``fit`` does so on its copy."""
        self.n_features = n_features
        self.setup(n_features)
        return self

    def setup(self, n_features: int) -> None:
        """Make what hangs on the width of a row, buffers and trainable parameters; to be overridden."""

    def mean(self, raw: Tensor) -> Tensor:
        """Central rows (..., n_features) of raw output (..., n_values): expected ones, or medians."""
        raise NotImplementedError(f"{type(self).__name__} has no mean(raw); define it")

    def central(self, raw: Tensor) -> Tensor:
        """Central rows (n, n_features) of raw output (n_draws, n, n_values) for several draws of each row's code."""
        return self.mean(raw).mean(0)

    def inputs(self, x: Tensor) -> Tensor:
        """What the encoder sees (n, n_inputs) of rows; NaN of a missing value stays NaN."""
        return x

    @property
    def shows_rows(self) -> bool:
        """Whether the encoder sees rows as they are."""
        return type(self).inputs is Likelihood.inputs

    def expected_inputs(self, raw: Tensor) -> Tensor:
        """What is to be expected of ``inputs(x)``, (..., n_inputs), by raw output."""
        return self.inputs(self.mean(raw))

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats (..., n) of rows x (n, n_features), over any leading dimensions of ``raw`` (..., n, n_values)."""
        if type(self).each is Likelihood.each:
            raise NotImplementedError(f"{type(self).__name__} has no nll(x, raw); define it, or each(x, raw)")
        return self.each(x, raw).sum(-1)

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats (..., n, n_features) of single values, whose sum over features is :meth:`nll`.

        Without it a model cannot be fitted to rows with missing values, of which only those that are there count.
        """
        raise NotImplementedError(f"{type(self).__name__} has no each(x, raw); define it")

    def known_nll(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats (..., n) of what is known of rows; NaN is a missing value, and no part of the sum."""
        missing = x.isnan()
        x = torch.where(missing, self.mean(raw).detach(), x)  # any value that may be: NaN would spoil gradients
        return self.each(x, raw).masked_fill(missing, 0.0).sum(-1)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (n, n_features) of p(x|z), one for each of ``raw`` (n, n_values), on the CPU, as both arguments are.

        Chance comes from the generator, which ``random_state`` seeds; so is torch's global one for the time of the
        call, from which ``torch.distributions`` draws.
        """
        raise NotImplementedError(f"{type(self).__name__} has no draw(raw, generator); define it")

    def check(self, x: Tensor) -> None:
        """Raise a ValueError that says what to do where rows are impossible; values are finite, or NaN if missing."""

    def check_seen(self, x: Tensor) -> None:
        """The same of rows that a fitted model is asked about, where its encoder does not see rows as they are."""
        self.check(x)

    def check_names(self, names: list[Any]) -> None:
        """Raise a ValueError where a table has other columns, or in another order."""

    def first(self, x: Tensor, where: Tensor) -> str:
        """The first value of rows for which something is true, and its place, for a message."""
        row, column = where.nonzero()[0].tolist()
        return f"{float(x[row, column]):g} in row {row}, {column_name(column, self.names)}"

    # Rows as users write them, where those are not numbers alone.

    def codes(self, X: Any) -> Any:
        """Rows of a user with numbers for the names of categories."""
        return X

    def named(self, rows: NDArray[Any]) -> list[NDArray[Any]] | None:
        """Columns of rows with the names of categories; None where rows are as the user writes them."""
        return None

    # What is learned of the first rows. A learned scale moves beside the networks' gradient steps; nothing to do
    # without one.

    def fit_scale(self, x: Tensor) -> None:
        """Learn from the first rows what they are measured by, such as a learned scale from their spread."""

    def relative_spread(self, x: Tensor) -> float:
        """Spread of rows relative to that which a learned scale started at."""
        return 1.0

    def update_scale(self, nll: Tensor) -> None:
        """Move a learned scale towards the best one for a batch, known by its mean negative log-likelihood."""

    def excess(self) -> float:
        """A learned scale relative to the spread that it started at: above 1, the mean of the rows does better."""
        return 0.0
