"""From a file to a fitted estimator."""

import os
from collections.abc import Sequence
from typing import Any

from riskvae.persistence._archive import MODEL, damaged, read
from riskvae.persistence._values import Names, NotHere, decode, make

__all__ = ["load"]


def load(path: str | os.PathLike[str], *, device: Any = "auto", trusted: Sequence[str] = ()) -> Any:
    """Fitted estimator from a file that :meth:`~riskvae.estimators.BaseVAE.save` wrote.

    Nothing in the file is executed, and nothing of it is believed: names lead to public classes and functions of
    riskvae, or to modules that you trust; sizes, types and values are checked before they are used. Answers are those
    of the model that was saved, bit for bit, on the same kind of processor.

    Parameters
    ----------
    path : path
        File.
    device : str or torch.device, default="auto"
        Where the model shall be; it becomes the estimator's parameter ``device``.
    trusted : sequence of str, default=()
        Modules (or packages with all that is in them) whose networks, measures, likelihoods and estimators a file may
        name. They are imported, and their code runs: list what you would import yourself.

    Returns
    -------
    estimator
        Fitted, of the class that was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or none of riskvae, of a newer format, or names what is not trusted; it says which part.
        If there is no such device here.

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
