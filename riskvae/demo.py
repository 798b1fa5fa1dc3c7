"""Demonstrates the package in about a minute, without files of your own: ``python -m riskvae.demo``."""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__: list[str] = []

# From paper to ink.
SHADES = " .:-=+*#%@"
SEEDS = range(3)
ABOUT = "four examples on tables of scikit-learn, about a minute"


def draw(*images: Any) -> str:
    """Digits of 8 x 8 pixels in [0, 1], side by side as characters, each twice as wide as a pixel is high."""
    lines = [[image[8 * i : 8 * i + 8] for image in images] for i in range(8)]
    return "\n".join("   " + "   ".join("".join(map(_ink, pixels)) for pixels in line) for line in lines)


def _ink(pixel: float) -> str:
    return 2 * SHADES[min(9, max(0, round(9 * float(pixel))))]


def worst_rows() -> Any:
    """Plain and averse training on scikit-learn's digits, and the digit that the plain one draws worst."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from riskvae import RiskAwareVAE, metrics

    X, X_test = train_test_split(load_digits().data / 16, test_size=0.25, random_state=0)
    models, told = {}, {}
    for name, eps in (("plain", 1.0), ("averse", 0.4)):
        models[name] = [
            RiskAwareVAE(
                eps=eps, n_components=4, beta=2.0, hidden_layer_sizes=(64,), max_epochs=100, lr=3e-3, random_state=seed
            ).fit(X)
            for seed in SEEDS
        ]
        told[name] = np.stack([1000 * metrics.row_losses(vae, X_test) for vae in models[name]])
        tail = np.mean([metrics.tail_mean(errors, 0.1) for errors in told[name]])
        print(f"   {name:7} (eps={eps:.1f})   worst tenth {tail:5.1f}   all {told[name].mean():5.1f}", flush=True)
    worst = told["plain"].mean(0).argmax()
    shown = [X_test[worst], *(models[name][0].reconstruct(X_test[[worst]])[0] for name in models)]
    print(f"   {'the worst digit':19}{'plain':19}averse\n{draw(*shown)}")
    return models["averse"][0]


def anomalies() -> None:
    """Malignant tumors found by a model that knows benign ones alone."""
    import numpy as np
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    from riskvae import QuantileVAE, metrics

    X, y = load_breast_cancer(return_X_y=True)
    train, benign = train_test_split(X[y == 1], test_size=0.2, random_state=0)  # y is 1 for benign tumors
    scaler = StandardScaler().fit(train)
    vae = QuantileVAE(calibration_fraction=0.4, random_state=0).fit(scaler.transform(train))
    sick, well = (scaler.transform(rows) for rows in (X[y == 0], benign))
    found = vae.detect(np.vstack([sick, well]), fdr=0.1)
    print(f"   found {found[: len(sick)].sum()} of {len(sick)} malignant tumors", end="")
    print(f", and {found[len(sick) :].sum()} of {len(well)} benign ones")
    held = metrics.coverage(well, vae.predict_interval(well, alpha=0.1)).mean()
    print(f"   90 % intervals hold {held:.0%} of the values of benign tumors")


def margins(vae: Any) -> None:
    """How far some digits can be pushed, between a bound of first order and an attack."""
    import numpy as np
    from sklearn.datasets import load_digits

    from riskvae import robustness_margin

    X = (load_digits().data[:20] / 16).astype("float32")
    margin = robustness_margin(vae, X, r=1.5, n_draws=2000, random_state=0)
    lower, upper = np.median(margin.lower), np.median(margin.upper)
    print(
        f"   norm of a change, median of {len(X)} digits: lower bound {lower:.2f}, broken by an attack at {upper:.2f}"
    )


def travel(vae: Any) -> None:
    """A file, and the model that comes out of it."""
    import numpy as np
    from sklearn.datasets import load_digits

    from riskvae import load

    X = load_digits().data / 16
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.riskvae"
        vae.save(file)
        same = np.array_equal(load(file, device=vae.device).score_samples(X), vae.score_samples(X))
        print(f"   {file.stat().st_size / 1024:.0f} KiB; {len(X)} scores of the loaded model are ", end="")
    print("the same, bit for bit" if same else "NOT the same: please report it")


def main(arguments: Sequence[str]) -> int:
    """Run all parts; 2 if something is asked that there is not."""
    if arguments:
        print(f"usage: python -m riskvae.demo\n\n{ABOUT}; writes no files", file=sys.stderr)
        return 0 if set(arguments) <= {"-h", "--help"} else 2
    start = time.perf_counter()
    _say(f"riskvae: {ABOUT}")  # before torch is loaded, which takes seconds
    _say(f"\n1. Reconstruct the worst rows better: error on new digits (x 1000), mean of {len(SEEDS)} seeds")
    vae = worst_rows()
    _say("\n2. Find anomalies at a false discovery rate of 10 %, and give intervals that hold")
    anomalies()
    _say("\n3. Measure how large a change of its pixels a digit withstands")
    margins(vae)
    _say("\n4. Save a model to a file without code, and load it")
    travel(vae)
    _say(f"\n{time.perf_counter() - start:.0f} s")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
