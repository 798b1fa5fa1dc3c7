"""Objects that are what their parameters say."""

from typing import ClassVar

from riskvae._sklearn import BaseEstimator


class Value(BaseEstimator):
    """Base of measures and spectra: parameters, clone and repr by scikit-learn, and equality by parameters."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_params() == other.get_params()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # they can be changed
