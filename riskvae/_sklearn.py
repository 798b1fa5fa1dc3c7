"""Scikit-learn's base classes, for which `_sklearn.pyi` has the types that they lack themselves."""

from sklearn import get_config
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, OutlierMixin, TransformerMixin
from sklearn.utils import Bunch

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks

    HAS_CALLBACKS = True
except ImportError:  # scikit-learn before 1.9
    HAS_CALLBACKS = False

    class CallbackSupportMixin:
        """Nothing to mix in: this scikit-learn has no callbacks."""

    def with_callbacks(method):
        """Return the method as it is."""
        return method


def output_container(estimator):
    """Which container ``set_output`` chose: "default", "pandas" or "polars"."""
    own = getattr(estimator, "_sklearn_output_config", {})
    return own.get("transform", get_config()["transform_output"])


__all__ = [
    "HAS_CALLBACKS", "BaseEstimator", "Bunch", "CallbackSupportMixin", "ClassNamePrefixFeaturesOutMixin",
    "DensityMixin", "OutlierMixin", "TransformerMixin", "output_container", "with_callbacks",
]  # fmt: skip
