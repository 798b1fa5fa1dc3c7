"""What a report of a mistake, or of a slow fit, has to tell: versions, the processor, and what is computed by what."""

import os
import platform
from importlib.metadata import version

import torch

from riskvae import __version__
from riskvae._processor import processor
from riskvae.nets._linear import _IN_INFERENCE, _LEAST, _ONEDNN, _WHY

__all__ = ["show_versions"]

_PACKAGES = ("torch", "numpy", "scikit-learn", "skorch")


def show_versions() -> None:
    """Print versions, the processor, and the available matrix products, low precision and devices.

    Include the output in bug reports. "matrix products" shows whether layers are trained with torch's own products on
    the CPU or with oneDNN's, and why. The environment variable ``RISKVAE_MATMUL`` ("auto", "torch" or "onednn", read at
    import) overrides the choice; ``python benchmarks/products.py`` in a clone measures it.

    See Also
    --------
    riskvae.nets.Linear : The layer whose products these are.

    Examples
    --------
    >>> import riskvae
    >>> riskvae.show_versions()  # doctest: +ELLIPSIS
    python          3...
    riskvae         ...
    torch           2...
    """
    machine = processor()
    products = f"oneDNN, of {_LEAST:,} multiplications or more in training" if _ONEDNN else "torch's own"
    family = "" if machine.family is None else f", family {machine.family}"
    low = {"": "none known", "AMX": "by AMX", "AVX-512": "by AVX-512"}[machine.bfloat16]
    told = {
        "python": platform.python_version(),
        "riskvae": __version__,
        **{name: version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "processor": f"{machine.name} ({machine.vendor}{family}), torch uses {torch.backends.cpu.get_cpu_capability()}",
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "matrix products": f"{products}: {_WHY}",
        "in inference": "oneDNN" if _IN_INFERENCE else "torch's own",
        "bfloat16": f"{low} on the CPU",
        "devices": ", ".join(_devices()),
    }
    for name, value in told.items():
        print(f"{name:<16}{value}")


def _cores() -> str:
    """The cores of this machine, and those that this process may use."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return str(mine) if mine == os.cpu_count() else f"{mine} of {os.cpu_count()}"


def _devices() -> list[str]:
    """The devices of this machine, with names and, of NVIDIA's, what they can compute."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    for i in range(torch.cuda.device_count()):
        kind = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} ({kind.name}, capability {kind.major}.{kind.minor})")
    return found
