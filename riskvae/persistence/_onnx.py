"""A module as an ONNX file: torch's own exporter does the work."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import nn

from riskvae import __version__
from riskvae.persistence._files import file_at, replace

__all__ = ["write_onnx"]


def write_onnx(
    module: nn.Module, path: str | os.PathLike[str], n_features: int, outputs: Sequence[str], made_by: str
) -> None:
    """Write a module of rows (n, n_features) of float32, for any n, in one step."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"export_onnx needs {' and '.join(missing)}: pip install onnx onnxscript onnxruntime (the extra onnx)."
        )
    file = file_at(path, "model.onnx")
    rows = torch.zeros(3, n_features)
    with _quietly(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module, (rows,), dynamo=True, verbose=False, input_names=["X"], output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("rows")},),
            )  # fmt: skip
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            first = next((line for line in f"{error.__cause__ or error}".splitlines() if line.strip()), "")
            raise ValueError(
                f"{made_by} cannot be written as ONNX: a network or likelihood of your own has a step that torch "
                f"cannot translate ({type(error.__cause__ or error).__name__}: {first[:200]}). Write that step with "
                "other operations, or save the model (vae.save) and serve it with torch."
            ) from error
    assert program is not None  # which it is without a path
    model = program.model_proto
    for key, value in {"made_by": made_by, "riskvae": __version__}.items():
        model.metadata_props.add(key=key, value=value)
    replace(file, model.SerializeToString())


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of its own parts, such as that torchvision is not there."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
