"""From a file to a fitted estimator."""

import os
from collections.abc import Sequence
from typing import Any

from riskvae.persistence._archive import MODEL, damaged, read
from riskvae.persistence._values import Names, NotHere, decode, make

__all__ = ["load"]


def load(path: str | os.PathLike[str], *, device: Any = "auto", trusted: Sequence[str] = ()) -> Any:
    """Load a fitted estimator from a file written by :meth:`~riskvae.estimators.BaseVAE.save`.

    Nothing in the file is executed, and its contents are not trusted: names may refer only to public classes and
    functions of riskvae, or to modules that you trust, and sizes, types and values are checked before use. On the same
    kind of processor, results equal those of the saved model, bit for bit.

    Parameters
    ----------
    path : path
        File to read.
    device : str or torch.device, default="auto"
        Device to load the model onto; it becomes the estimator's parameter ``device``.
    trusted : sequence of str, default=()
        Modules (or packages with everything in them) whose networks, measures, likelihoods and estimators the file may
        refer to. They are imported and their code runs, so list only what you would import yourself.

    Returns
    -------
    estimator
        The fitted estimator, of the class that was saved.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged, was not written by riskvae, has a newer format, or refers to something that is not
        trusted; the message says which part. Also if the device is not available.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import riskvae
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> vae = riskvae.BetaVAE(2, max_epochs=30, random_state=0).fit(X)
    >>> file = os.path.join(tempfile.mkdtemp(), "model.riskvae")
    >>> vae.save(file)
    >>> bool((riskvae.load(file).transform(X) == vae.transform(X)).all())
    True
    """
    document, arrays = read(path)
    names = Names(trusted)
    try:
        kind = names.find(document.get("class"), "class")
        if not hasattr(kind, "_restored"):
            raise ValueError(f"class is {document.get('class')!r}, and a model must be an estimator of riskvae")
        parameters = document.get("parameters")
        if not isinstance(parameters, dict):
            raise ValueError("there are no parameters")
        kept = {name: part for name, part in parameters.items() if name not in kind._not_kept}
        known = {name: decode(part, names, arrays, name) for name, part in kept.items()}
        estimator = make(kind, {**known, "device": device}, "parameters")
        fitted = decode(document.get("fitted"), names, arrays, "fitted")
    except NotHere as error:
        raise ValueError(f"{str(path)!r}: {MODEL}: {error}") from error
    except (ValueError, OverflowError) as error:
        raise damaged(path, MODEL, str(error).rstrip(".")) from error
    estimator._check_device()  # a device that is not here is no damage of the file
    try:
        estimator._restored(fitted, arrays)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: " if not isinstance(error, ValueError) else ""
        raise damaged(
            path, "its parts do not go together", f"{what}{' '.join(str(error).split())[:500].rstrip('.')}"
        ) from error
    return estimator
