"""Columns of different kinds in one table: numbers, counts, categories."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from riskvae._machine import index
from riskvae._validation import LARGEST, check_parameters, choice, host_array, integer
from riskvae._value import key_of
from riskvae.likelihoods._categorical import Categorical
from riskvae.likelihoods._columns import (
    likelihoods_of,
    refuse_other_columns,
    refuse_repeated,
    refuse_single_rows,
    refuse_strings,
    shortly,
    to_codes,
    to_labels,
)
from riskvae.likelihoods._likelihood import Likelihood
from riskvae.likelihoods._scaled import ScaledLikelihood, center_and_spread

__all__ = ["Mixed"]

_MANY = 20  # rows that tell of a spread
# Standard deviations away from 0, beyond which single precision has no digits left, and where whole numbers are lost.
_FINEST, _WHOLE = 1e5, 2.0**24


class Mixed(Likelihood):
    r"""A likelihood for each column of a table; columns are independent given the code.

    .. math:: -\log p(x|z) = -\sum_j \log p_j(x_j|z)

    Raw columns may have any units: numeric columns (:class:`Gaussian`, :class:`StudentT`, :class:`Quantiles`) are
    standardized internally, based on the first rows. A given noise scale is in standard deviations of its column; a
    learned one is learned for each column. The encoder sees the standardized columns, logarithms of counts, and one
    column per category. Input and output rows have the labels of categories and the units of the columns.

    Parameters
    ----------
    columns : dict of column to Likelihood
        Likelihoods by column, in order: names of the columns of a DataFrame, or positions in an array.
    unknown : {"error", "missing"}, default="error"
        How to treat a category that is not listed: as an error, or as a missing value.

    Notes
    -----
    Items of a torch Dataset are numeric: there, categories are given by their position among the labels, 0 to K - 1.

    Examples
    --------
    >>> import pandas as pd
    >>> from riskvae import BetaVAE
    >>> from riskvae.likelihoods import Mixed
    >>> X = pd.DataFrame({"age": [31.0, 64.0, None, 45.0] * 50, "town": ["Bern", "Chur", "Bern", None] * 50})
    >>> Mixed.from_frame(X)
    Mixed(columns={'age': Gaussian(per_feature=True),
                   'town': Categorical(categories=('Bern', 'Chur'))})
    >>> vae = BetaVAE(2, likelihood=Mixed.from_frame(X), max_epochs=200, random_state=0).set_output(transform="pandas")
    >>> vae.fit(X).impute(X[:4])["town"].tolist()  # the last one was not known
    ['Bern', 'Chur', 'Bern', 'Bern']
    """

    center: Tensor
    spread: Tensor
    started: Tensor
    parts: nn.ModuleList
    decoder_gives: str
    _order: Tensor
    _places: list[list[int]]

    def __init__(self, columns: Mapping[Any, Likelihood], unknown: Literal["error", "missing"] = "error") -> None:
        super().__init__()
        self.columns = columns
        self.unknown = unknown

    @classmethod
    def from_frame(
        cls,
        X: Any,
        *,
        categorical: Sequence[Any] = (),
        max_categories: int = 100,
        unknown: Literal["error", "missing"] = "error",
    ) -> Self:
        """Choose likelihoods from the contents of the columns of a DataFrame.

        Strings, booleans, pandas categories, and the numbers 0 and 1 become :class:`Categorical`. Nonnegative whole
        numbers that vary more than their mean are counts, :class:`NegativeBinomial`. Positive numbers that are skewed,
        but whose logarithms are not, are :class:`LogNormal`. Other numbers are :class:`Gaussian`, each column with its
        own noise. Missing values are ignored.

        Parameters
        ----------
        X : DataFrame
            A pandas or polars DataFrame. Pass all rows, so that no category is unknown later.
        categorical : sequence of column names, default=()
            Columns whose numbers, or strings that look like numbers or dates, are categories, such as codes of regions.
        max_categories : int, default=100
            Maximum number of categories of a column of strings, or of one listed in ``categorical``.
        unknown : {"error", "missing"}, default="error"
            As in :class:`Mixed`.

        Returns
        -------
        Mixed

        Raises
        ------
        ValueError
            For dates, strings that are numbers or hardly ever repeat, infinite values, and columns that mix strings
            with numbers or are empty. The message lists all of them.

        Warns
        -----
        UserWarning
            For what may be a mistake: a number that may stand for "unknown", such as -999; a few zeros among amounts;
            labels that differ in case or spaces alone; columns of one value.
        """
        check_parameters("Mixed.from_frame", {"max_categories": max_categories}, {"max_categories": integer(1)})
        if not hasattr(X, "columns") or not hasattr(X, "dtypes") or hasattr(X, "collect"):
            raise TypeError(
                f"Mixed.from_frame: X must be a DataFrame of pandas or polars, in memory; got {type(X).__name__}. Of "
                "an array, name the columns by their places: Mixed({0: Gaussian(), 1: Categorical(3)})."
            )
        lacking = [name for name in categorical if name not in list(X.columns)]
        if isinstance(categorical, str) or lacking:
            raise ValueError(
                f"Mixed.from_frame: categorical must be names of columns of X; got {categorical!r}. X has "
                f"{shortly(list(X.columns))}."
            )
        _check_unknown(unknown)
        return cls(likelihoods_of(X, list(categorical), max_categories), unknown)

    @property
    def names_of_columns(self) -> list[Any]:
        """Names of the columns, in order."""
        return list(self.columns)

    def setup(self, n_features: int) -> None:
        self._check_columns(n_features)
        groups: dict[Any, tuple[Likelihood, list[int]]] = {}
        for place, likelihood in enumerate(self.columns.values()):
            if isinstance(likelihood, Categorical):
                likelihood = Categorical(likelihood.n_categories)
            groups.setdefault(key_of(likelihood), (likelihood, []))[1].append(place)
        self.parts = nn.ModuleList(copy.deepcopy(likelihood) for likelihood, _ in groups.values())
        self._places = [places for _, places in groups.values()]
        for part, places in zip(self.parts, self._places, strict=True):
            if isinstance(part, ScaledLikelihood):
                part.by_gradient = True
            part.prepare(len(places))  # type: ignore[operator]
        self.decoder_gives = f"what the likelihoods of {n_features} columns take, {self.n_values} values"
        order = torch.tensor([place for places in self._places for place in places]).argsort()
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        self.register_buffer("started", torch.zeros(n_features, dtype=torch.bool))

    def _check_columns(self, n_features: int | None = None) -> None:
        columns = self.columns
        _check_unknown(self.unknown)
        example = 'Mixed({"age": Gaussian(), "town": Categorical(["Bern", "Chur"])}), or Mixed.from_frame(X)'
        if not isinstance(columns, Mapping) or not columns:
            raise TypeError(f"Mixed: columns must be a dict of column to likelihood; got {columns!r}. Use {example}.")
        for name, likelihood in columns.items():
            if not isinstance(likelihood, Likelihood) or isinstance(likelihood, Mixed):
                raise TypeError(f"Mixed: column {name!r} must have one likelihood; got {likelihood!r}. Use {example}.")
        if n_features is not None and len(columns) != n_features:
            raise ValueError(
                f"Mixed: X has {n_features} columns, but likelihoods are given for {len(columns)}: "
                f"{shortly(list(columns))}. Give each column one, in the order of X."
            )

    # ------------------------------------------------------------------------------------- the parts

    @property
    def n_values(self) -> int:
        return sum(part.n_values for part in self.parts)  # type: ignore[misc]

    @property
    def n_inputs(self) -> int:
        return sum(part.n_inputs for part in self.parts)  # type: ignore[misc]

    def _of_parts(self, rows: Tensor) -> Iterator[tuple[Any, list[int], Tensor]]:
        """Each part, its places, and its columns of rows."""
        for part, places in zip(self.parts, self._places, strict=True):
            yield part, places, rows[..., index(places, rows)]

    def _raw_of_parts(self, raw: Tensor) -> Iterator[tuple[Any, Tensor, list[int]]]:
        """Each part, what it takes of the decoder's output, and its places."""
        parts = raw.split([part.n_values for part in self.parts], -1)
        yield from zip(self.parts, parts, self._places, strict=True)

    def _joined(self, found: list[Tensor]) -> Tensor:
        """Columns of all parts in the order of the table."""
        return torch.cat(found, -1)[..., self._order]

    # Numbers before they are standardized: as they are, unless a subclass takes logarithms.

    def _unskewed(self, x: Tensor) -> Tensor:
        return x

    def _skewed(self, x: Tensor) -> Tensor:
        return x

    def _standardized(self, x: Tensor) -> Tensor:
        return (self._unskewed(x) - self.center) / self.spread

    def _in_columns(self, u: Tensor) -> Tensor:
        """Columns of standardized numbers."""
        return self._skewed(u * self.spread + self.center)

    def mean(self, raw: Tensor) -> Tensor:
        return self._in_columns(self._joined([part.mean(own) for part, own, _ in self._raw_of_parts(raw)]))

    def central(self, raw: Tensor) -> Tensor:
        return self._in_columns(self._joined([part.central(own) for part, own, _ in self._raw_of_parts(raw)]))

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        u, total = self._standardized(x), self.spread.log().sum()
        for part, own, places in self._raw_of_parts(raw):
            total = total + part.nll(u[..., index(places, u)], own)
        return total

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        u = self._standardized(x)
        found = [part.each(u[..., index(places, u)], own) for part, own, places in self._raw_of_parts(raw)]
        return self._joined(found) + self.spread.log()

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        return self._in_columns(self._joined([part.draw(own, generator) for part, own, _ in self._raw_of_parts(raw)]))

    def inputs(self, x: Tensor) -> Tensor:
        return torch.cat([part.inputs(own) for part, _, own in self._of_parts(self._standardized(x))], -1)

    def expected_inputs(self, raw: Tensor) -> Tensor:
        return torch.cat([part.expected_inputs(own) for part, own, _ in self._raw_of_parts(raw)], -1)

    def check(self, x: Tensor) -> None:
        for part, places, own in self._of_parts(x):
            part.names = [self.names_of_columns[place] for place in places]
            part.check(own)

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        if not self.started.all():
            center, spread = center_and_spread(self._unskewed(x))
            numbers = torch.zeros_like(self.started)
            for part, places, _ in self._of_parts(x):
                numbers[places] = part.affine
            self._refuse_digits(center, spread, numbers)
            # A column that is constant so far keeps its center, and has no unit until its values differ.
            first, differ = numbers & (self.started == 0), spread > 0
            unknown = first & ~differ & x.isnan().all(0)
            self.center.copy_(torch.where(first & ~unknown, center, self.center))
            self.spread.copy_(torch.where(first & differ, spread, self.spread))
            self.started.copy_(self.started | differ | ~numbers)
        for part, _, own in self._of_parts(self._standardized(x)):
            part.fit_scale(own)

    def _refuse_digits(self, center: Tensor, spread: Tensor, numbers: Tensor) -> None:
        """Raise where single precision, in which training is done, cannot tell the values of a column apart."""
        away = center.abs()
        lost = torch.where(spread > 0, away > _FINEST * spread, away > _WHOLE)
        wrong = numbers & (lost | (torch.maximum(away, spread) > LARGEST))
        if wrong.any():
            place = int(wrong.nonzero()[0])
            raise ValueError(
                f"Mixed: column {self.names_of_columns[place]!r} has values around {float(center[place]):.3g} that "
                f"vary by {float(spread[place]):.3g}, more digits than single precision, in which training is done, "
                "can hold. Subtract its least value, or choose a larger unit, such as days for nanoseconds."
            )

    @torch.no_grad()
    def relative_spread(self, x: Tensor) -> float:
        places = [place for part, where, _ in self._of_parts(x) if part.affine for place in where]
        if not self.started.any() or len(x) < _MANY or not places:
            return 1.0
        return float(center_and_spread(self._standardized(x)[:, places])[1].square().mean().sqrt()) or 1.0

    # ------------------------------------------------------------------------------- names of values

    def codes(self, X: Any) -> Any:
        self._check_columns()
        refuse_single_rows(X)
        if hasattr(X, "columns"):
            self.check_names(list(X.columns))
            found = {name: X[name] for name in X.columns}
            for name, one in zip(X.columns, self.columns.values(), strict=True):
                found[name] = self._coded(X[name], name, one)
            return type(X)(found)
        X = host_array(X)
        rows = X if isinstance(X, np.ndarray) else np.asarray(X) if isinstance(X, list | tuple) else None
        if rows is None or rows.ndim != 2 or rows.shape[1] != len(self.columns):
            return X  # what is wrong with it is told elsewhere
        columns = [(place, name, one) for place, (name, one) in enumerate(self.columns.items())]
        if rows.dtype.kind in "fiub":  # a category is its label where that is a number, else its place
            columns = [
                (*rest, one) for *rest, one in columns if isinstance(one, Categorical) and _are_numbers(one.labels)
            ]
            if not columns:
                return X
        if isinstance(X, list | tuple):
            rows = np.array(X, dtype=object)
        coded = rows.copy()
        for place, name, one in columns:
            coded[:, place] = self._coded(rows[:, place], name, one)
        return coded

    def _coded(self, column: Any, name: Any, likelihood: Likelihood) -> Any:
        """A column with codes in place of categories; one of numbers as it is."""
        if isinstance(likelihood, Categorical):
            return to_codes(np.asarray(column, dtype=object), likelihood.labels, name, self.unknown == "missing")
        refuse_strings(np.asarray(column), name)
        return column

    def check_names(self, names: list[Any]) -> None:
        refuse_repeated(names, "Mixed")
        own = self.names_of_columns
        if names != own and all(isinstance(name, str) for name in own):
            refuse_other_columns(names, own)

    def named(self, rows: NDArray[Any]) -> list[NDArray[Any]]:
        found = []
        for place, one in enumerate(self.columns.values()):
            column = rows[..., place]
            found.append(to_labels(column, one.labels) if isinstance(one, Categorical) else column)
        return found


def _are_numbers(labels: tuple[Any, ...]) -> bool:
    return all(isinstance(label, int | float | np.number) for label in labels) and labels != tuple(range(len(labels)))


def _check_unknown(unknown: Any) -> None:
    check_parameters("Mixed", {"unknown": unknown}, {"unknown": choice("error", "missing")})
