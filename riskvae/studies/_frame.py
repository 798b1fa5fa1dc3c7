"""What every study shares: a configuration, measurements that are kept as they come, a report."""

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed, parallel_config

from riskvae.studies._cache import VERSIONS, content, digest
from riskvae.studies._catalog import STUDIES
from riskvae.studies._drawing import headline

__all__ = ["Config", "StudyResult", "column", "markdown", "measure_all", "plus_minus", "spread"]

Task = Mapping[str, Any]

DATA = {
    "adbench": "a folder 'adbench' of npz files with X and y (1: anomaly), such as 45_wine.npz: the folder "
    "adbench/datasets/Classical of github.com/Minqi824/ADBench",
    "ms_lesions": "a folder 'ms_lesions' of patientNN_flair.nii.gz and patientNN_lesion.nii.gz, skull-stripped, in one "
    "space: three patients of Lesjak et al., Neuroinformatics 2017 (the 3D MR image database of lit.fe.uni-lj.si)",
}


@dataclass(frozen=True)
class Config:
    """Settings of a run.

    Parameters
    ----------
    data : Path, default=None
        Folder of real data; None uses the environment variable ``RISKVAE_DATA``.
    out : Path, default="results"
        Folder of results; each study has a subfolder.
    seeds : int, default=3
        Number of seeds for which models are trained.
    epochs : int, default=None
        Number of epochs of every training; None uses the study's own.
    quick : bool, default=False
        Whether to use small sizes and one seed, to see that the study runs; such results are not to be quoted.
    jobs : int, default=1
        Number of processes, which share the cores.
    device : str, default="auto"
        Device of the estimators.
    redraw : bool, default=False
        Whether to write tables and figures anew from ``results.json``, and to measure nothing.
    """

    data: Path | None = None
    out: Path = Path("results")
    seeds: int = 3
    epochs: int | None = None
    quick: bool = False
    jobs: int = 1
    device: str = "auto"
    redraw: bool = False

    @classmethod
    def from_arguments(cls, arguments: Sequence[str] | None, name: str) -> Self:
        """Read the command line of a study."""
        study = STUDIES[name]
        parser = argparse.ArgumentParser(
            prog=f"python -m riskvae.studies {name}",
            description=study.about,
            epilog=f"Time: {study.time}; a run that is stopped goes on where it was. Data: {study.data}.",
        )
        parser.add_argument("--data", type=Path, help="folder of real data (default: the variable RISKVAE_DATA)")
        parser.add_argument("--out", type=Path, default=cls.out, help="folder of results (default: %(default)s)")
        parser.add_argument("--seeds", type=_count, default=cls.seeds, help="seeds (default: %(default)s)")
        parser.add_argument("--epochs", type=_count, help="epochs of every training (default: the study's own)")
        parser.add_argument(
            "--quick",
            action="store_true",
            help="small sizes and one seed, not to be quoted; results have a folder of their own",
        )
        parser.add_argument(
            "--redraw", action="store_true", help="tables and figures anew, from results.json; nothing is measured"
        )
        parser.add_argument("--jobs", type=_count, default=cls.jobs, help="processes (default: %(default)s)")
        parser.add_argument("--device", default=cls.device, help="device of the estimators (default: %(default)s)")
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def n_seeds(self) -> int:
        """Number of seeds; one if ``quick``."""
        return 1 if self.quick else self.seeds

    def results(self, name: str) -> Path:
        """Folder of a study's results; quick ones have another, so that they never replace full ones."""
        return self.out / (f"{name}-quick" if self.quick else name)

    def content(self, name: str) -> str:
        """Digest of the data that a study reads."""
        root = self.data or os.environ.get("RISKVAE_DATA")
        folders = STUDIES[name].folders if name in STUDIES else ()
        return content(Path(root) / folder for folder in folders) if root else ""

    def folder(self, name: str) -> Path:
        """Path of a folder in the data folder, by name."""
        root = self.data or os.environ.get("RISKVAE_DATA")
        path = Path(root) / name if root else None
        if path is None or not path.is_dir() or not any(path.iterdir()):
            empty = f"{root} has no folder {name!r}, or an empty one"
            where = empty if root else "neither --data nor RISKVAE_DATA names a folder"
            raise FileNotFoundError(f"This study needs real data, and {where}. It is to hold {DATA[name]}.")
        return path


@dataclass
class StudyResult:
    """Results of a study, with their tables and figures.

    Parameters
    ----------
    name : str
        Name of the study.
    settings : dict
        Settings that all measurements share.
    records : list of dict
        One per task: the task, and what was measured.
    tables : dict of str to str
        Markdown tables by title.
    figures : dict of str to matplotlib Figure
        Figures by file name.
    """

    name: str
    settings: dict[str, Any]
    records: list[dict[str, Any]]
    tables: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def save(self, config: Config) -> Path:
        """Write results.json, the tables as tables.md, and the figures; return the folder."""
        from matplotlib.pyplot import close

        folder = config.results(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        if not config.redraw:
            self._write(config, folder / "results.json")
        parts = [self._origin(config)]
        parts += [f"## {title}\n\n{table}" for title, table in self.tables.items()]
        parts += [f"![{name}]({name}.png)" for name in self.figures]
        (folder / "tables.md").write_text(f"# Tables of {self.name}\n\n" + "\n\n".join(parts) + "\n")
        for name, figure in self.figures.items():
            if config.quick:
                headline(figure, "One seed at small sizes: not to be quoted")
            figure.savefig(folder / f"{name}.png", dpi=130)
            close(figure)  # pyplot keeps what is not closed
        return folder

    def _write(self, config: Config, file: Path) -> None:
        settings = {k: v for k, v in asdict(config).items() if k not in ("data", "out", "redraw")}
        told = {
            "study": self.name,
            "settings": {**self.settings, **settings},
            "versions": {name: version(name) for name in VERSIONS},
            "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
            "records": self.records,
        }
        file.write_text(json.dumps(told, indent=1) + "\n")

    def _origin(self, config: Config) -> str:
        """The command, and on how many seeds."""
        quick = " --quick" if config.quick else f" --seeds {config.seeds}"
        epochs = f" --epochs {config.epochs}" if config.epochs else ""
        spreads = any("±" in table for table in self.tables.values())
        told = "± is the standard deviation over seeds" if spreads else "means over seeds"
        meaning = "one seed at small sizes, not to be quoted" if config.quick else told
        return (
            f"Written by `python -m riskvae.studies {self.name}{quick}{epochs}`: {len(self.records)} measurements, "
            f"listed in [results.json](results.json) with settings, versions and machine; {meaning}."
        )


def measure_all(
    config: Config, name: str, tasks: Iterable[Task], measure: Callable[[Task], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Records of all tasks, in their order; those measured earlier are read from the folder of results.

    Each is written as soon as it is there, so a run that was killed goes on where it was. It is measured again where
    its task, the code that measures, the data, or the version of a library is another one; tables and figures may
    change.
    """
    if config.redraw:
        known: list[dict[str, Any]] = json.loads((config.results(name) / "results.json").read_text())["records"]
        return known
    folder = config.results(name) / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    tasks, data = [dict(task) for task in tasks], config.content(name)
    files = [folder / f"{digest(task, measure, data)}.json" for task in tasks]
    missing = [(task, file) for task, file in zip(tasks, files, strict=True) if not file.exists()]
    print(
        f"{len(tasks)} measurements, {len(tasks) - len(missing)} of them there already; in {folder.parent}", flush=True
    )
    threads = max(1, (os.cpu_count() or 1) // config.jobs) if config.jobs > 1 else None
    with parallel_config(backend="loky", n_jobs=config.jobs, inner_max_num_threads=threads):
        done = Parallel(return_as="generator_unordered")(delayed(_keep)(measure, task, file) for task, file in missing)
        for _ in _progress(done, len(missing), name):
            pass
    return [json.loads(file.read_text()) for file in files]


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Table in Markdown; numbers with three digits after the point."""

    def text(value: Any) -> str:
        if isinstance(value, float | np.floating):
            return "" if math.isnan(value) else f"{value:.3f}"
        return str(value)

    lines = [list(header), ["---"] * len(header), *[[text(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def column(records: Iterable[Mapping[str, Any]], what: str) -> list[Any]:
    """One measure of some records."""
    return [record[what] for record in records]


def spread(values: Sequence[float]) -> float:
    """Standard deviation; NaN where there is none: of one value, or of infinite ones."""
    return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


def plus_minus(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, where there is one, standard deviation."""
    width = spread(values)
    told = "" if math.isnan(width) else f" ± {width:.{digits}f}"
    return f"{np.mean(values):.{digits}f}{told}"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; got {text}")
    return value


def _keep(measure: Callable[[Task], Mapping[str, Any]], task: Task, file: Path) -> None:
    record = {**task, **measure(task)}
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(record))
    part.replace(file)


def _progress(results: Iterable[Any], total: int, name: str) -> Iterable[Any]:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _told(results, total)
    return tqdm(results, total=total, desc=name, disable=total == 0)


def _told(results: Iterable[Any], total: int) -> Iterable[Any]:
    for i, result in enumerate(results, 1):
        print(f"measured {i} of {total}", file=sys.stderr, flush=True)
        yield result


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
