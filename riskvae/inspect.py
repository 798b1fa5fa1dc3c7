"""Show what a saved model contains, without loading torch: ``python -m riskvae.inspect FILE``."""

import sys
from collections.abc import Sequence
from typing import Any

from riskvae.persistence._archive import read_document

__all__ = ["describe"]

# How far parameters in parameters are shown.
_DEEPEST = 20


def describe(path: str) -> str:
    """Class, parameters, training and versions of a saved model, as text; nothing in it is executed or imported.

    Parameters
    ----------
    path : str
        File written by ``save``.

    Returns
    -------
    str
        A few lines of text.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file does not exist, was not written by riskvae, is damaged, or has a newer format.
    """
    document = read_document(path)
    fitted = document.get("fitted")
    fitted = fitted if isinstance(fitted, dict) else {}
    history = fitted.get("history")
    lines = [
        f"{document.get('class')}, format {document['format']}",
        f"written by riskvae {document.get('riskvae')}, torch {document.get('torch')}, Python {document.get('python')}",
        f"features: {fitted.get('n_features')}{_shortly(fitted.get('feature_names'))}",
    ]
    if isinstance(history, list) and history and isinstance(history[-1], dict):
        losses = {name: history[-1][name] for name in ("train_loss", "valid_loss") if name in history[-1]}
        told = ", ".join(f"{name} {value}" for name, value in losses.items())
        lines.append(f"epochs: {len(history)}; the last: {told}")
    lines.append(f"can go on training bit for bit: {'yes' if fitted.get('training') else 'no'}")
    lines.append("parameters:")
    parameters = document.get("parameters")
    if isinstance(parameters, dict):
        lines += [f"  {name} = {_value(value)}" for name, value in sorted(parameters.items())]
    # A file must not steer a terminal.
    return "\n".join(map(_printable, lines))


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line)


def _value(value: Any, depth: int = 0) -> str:
    """A parameter as one would write it, shortened."""
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, dict):
        kind = value.get("is")
        if kind == "tuple" and isinstance(value.get("of"), list):
            return f"({', '.join(_value(part, depth + 1) for part in value['of'])})"[:200]
        name = value.get("class") or value.get("function") or (value.get("of") if kind == "name" else None)
        inner = value.get("parameters") or value.get("keywords") or {}
        told = (
            ", ".join(f"{key}={_value(part, depth + 1)}" for key, part in inner.items())
            if isinstance(inner, dict)
            else ""
        )
        return f"{name}({told})"[:200] if name else "..."
    return repr(value)[:200]


def _shortly(names: Any) -> str:
    if not isinstance(names, list) or not names:
        return ""
    return f" ({', '.join(map(str, names[:8]))[:200]}{', ...' if len(names) > 8 else ''})"


def main(arguments: Sequence[str]) -> int:
    """Print what a file contains; return 2 if it cannot be read."""
    asked = set(arguments) & {"-h", "--help"}
    if asked or len(arguments) != 1:
        print("usage: python -m riskvae.inspect FILE\n\nwhat is in a saved model, without torch", file=sys.stderr)
        return 0 if asked else 2
    try:
        print(describe(arguments[0]))
    except (OSError, ValueError) as error:
        print(_printable(str(error)), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
