"""A fitted score as tensors and numbers, and back: what a file keeps of it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from riskvae.detection._density import RowDensity
from riskvae.detection._marginals import Marginals
from riskvae.detection._noise import Noise
from riskvae.detection._score import RowScore

__all__ = ["score_from", "score_parts"]

_MOST = 4  # densities


def score_parts(score: RowScore) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Numbers and tensors of a score."""
    numbers = {
        "n_densities": len(score.densities),
        "n_rows": score.n_rows,
        "share": score.share,
        "noise_rows": [density.noise.n_rows for density in score.densities],  # type: ignore[union-attr]
        "young": score.young is not None,
    }
    tensors = dict(score.state_dict())
    tensors |= {f"young.{name}": value for name, value in (score.young or {}).items()}
    return numbers, tensors


def score_from(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor], d: int, k: int) -> RowScore:
    """The score of rows with d features and k latent coordinates; a ValueError where its parts do not go together."""
    n = numbers["n_densities"]
    rows = [numbers["n_rows"], *numbers["noise_rows"]]
    if type(n) is not int or not 1 <= n <= _MOST or len(rows) != n + 1 or not all(_counts(value) for value in rows):
        raise ValueError("score: its numbers of densities and rows are not valid")
    if not isinstance(numbers["share"], float | int) or not 0 < numbers["share"] <= 1:
        raise ValueError("score: share must be in (0, 1]")
    own = {name: value for name, value in tensors.items() if not name.startswith("young.")}
    shapes = _shapes(own, n, d, k)
    if own.keys() != shapes.keys():
        raise ValueError(
            f"score: parts are missing, or there are too many: {', '.join(sorted(own.keys() ^ shapes.keys())[:5])}"
        )
    for name, value in own.items():
        kind = torch.bool if name.endswith(".own") else torch.float32
        known = value[value != torch.inf] if name == "marginals.values" else value  # infinity: a missing value
        if tuple(value.shape) != shapes[name] or value.dtype != kind or not known.isfinite().all():
            raise ValueError(f"score: {name} must be finite, {kind}, of shape {shapes[name]}; got {tuple(value.shape)}")
        if name.endswith(("scale", "broad", "spread", "inflation")) and not (value > 0).all():
            raise ValueError(f"score: {name} must be above 0")
    ascending = own["marginals.values"]
    if (ascending[:, 1:] < ascending[:, :-1]).any():
        raise ValueError("score: marginals.values must ascend")
    score = _bare(RowScore, {name: own[name] for name in ("middle", "slope", "scores")})
    densities = []
    for i, n_rows in enumerate(rows[1:]):
        noise = _bare(Noise, _inside(own, f"densities.{i}.noise."))
        noise.n_rows = n_rows
        density = _bare(
            RowDensity, {name: own[f"densities.{i}.{name}"] for name in ("draws", "prior_mean", "prior_scale")}
        )
        density.noise = noise
        densities.append(density)
    score.densities = nn.ModuleList(densities)
    score.marginals = _bare(Marginals, _inside(own, "marginals."))
    score.n_rows, score.share = rows[0], float(numbers["share"])
    score.young = _inside(tensors, "young.") if numbers["young"] else None
    return score


def _shapes(own: Mapping[str, Tensor], n: int, d: int, k: int) -> dict[str, tuple[int, ...]]:
    """What each tensor must be like; how many rows are remembered is said by the tensors themselves."""

    def long(name: str, dim: int) -> int:
        value = own.get(name)
        if value is None or value.dim() <= dim or not len(value):
            raise ValueError(f"score: there is no {name}")
        return value.shape[dim]

    shapes: dict[str, tuple[int, ...]] = {
        "middle": (n + 1,), "slope": (n + 1,), "marginals.spread": (d,),
        "marginals.values": (d, long("marginals.values", 1)),
        "scores": (own["scores"].numel(),) if "scores" in own else (0,),
    }  # fmt: skip
    for i in range(n):
        at = f"densities.{i}"
        shapes |= {f"{at}.noise.{name}": (d,) for name in ("error_scale", "broad", "own", "factor", "inflation")}
        shapes[f"{at}.draws"] = (long(f"{at}.draws", 0), 1, k)
        shapes |= {f"{at}.{name}": (long(f"{at}.prior_mean", 0), k) for name in ("prior_mean", "prior_scale")}
    return shapes


def _bare(kind: Any, buffers: Mapping[str, Tensor]) -> Any:
    """A module of a class, without what it would learn from rows."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for name, value in buffers.items():
        made.register_buffer(name, value)
    return made


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _counts(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value < 2**53
