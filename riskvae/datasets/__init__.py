"""Rows of files, image data from IDX files or OpenML, distortions, and simulations with known noise.

In the house: this package creates arrays and does not depend on models.
"""

from riskvae.datasets._cifar10 import fetch_cifar10
from riskvae.datasets._distortions import elastic_distortion
from riskvae.datasets._images import fetch_fashion_mnist, fetch_mnist, read_idx
from riskvae.datasets._parquet import ParquetRows
from riskvae.datasets._simulations import make_heteroscedastic, make_lesions

__all__ = [
    "ParquetRows",
    "elastic_distortion",
    "fetch_cifar10",
    "fetch_fashion_mnist",
    "fetch_mnist",
    "make_heteroscedastic",
    "make_lesions",
    "read_idx",
]
