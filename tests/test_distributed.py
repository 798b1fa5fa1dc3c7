"""One model in several processes: that of one process, the same in all of them, and an end for all where one fails."""

import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import distributed_script as script
import numpy as np
import pytest
from distributed_script import CASES, answers, table, train

from riskvae import BetaVAE

SCRIPT = Path(__file__).with_name("distributed_script.py")
ROOT = SCRIPT.parents[1]


def start(what, folder, size):
    """Processes that find each other by themselves: no other program ends them where one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
    }  # fmt: skip
    command = [sys.executable, SCRIPT, what, folder]
    return [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]


def finish(processes):
    """Their exit codes, and what they said; none of them outlives a test."""
    try:
        told = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A folder with what two, and three processes made of all cases."""
    folder = tmp_path_factory.mktemp("cases")
    for size in (2, 3):
        codes, told = finish(start("cases", folder, size))
        assert codes == [0] * size, told
    return folder


def found(folder, name, mode, size):
    """The answers of each process."""
    return [dict(np.load(folder / f"{name} {mode} {size} {rank}.npz")) for rank in range(size)]


def assert_same_everywhere(told):
    for other in told[1:]:
        assert other.keys() == told[0].keys()
        for key, value in other.items():
            np.testing.assert_array_equal(value, told[0][key], err_msg=key)


@pytest.mark.parametrize("mode", ["replicated", "sharded"])
@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, 2) for name in CASES if name != "parts"), *((name, 3) for name in script.OF_THREE if name != "parts")],
)
def test_processes_train_the_model_of_one_process(several, name, size, mode):
    """Weights within 1e-4, and losses within 1e-6 of their size: another order of sums, and nothing else."""
    alone, told = answers(train(name)), found(several, name, mode, size)
    assert_same_everywhere(told)
    together = told[0]
    assert len(together["loss"]) == len(alone["loss"])
    assert np.abs(together["weights"] - alone["weights"]).max() < 1e-4
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(together["scores"], alone["scores"], rtol=1e-4, atol=1e-4)
    for key in ("offset", "p"):
        if key in alone:
            np.testing.assert_allclose(together[key], alone[key], rtol=1e-4, atol=1e-4)


def test_parts_of_a_table_are_learned_together(several):
    alone = answers(train("parts"))
    for size in (2, 3):
        told = found(several, "parts", "replicated", size)
        assert_same_everywhere(told)
        assert np.abs(told[0]["weights"] - alone["weights"]).max() < 1e-4
        assert_same_everywhere(found(several, "parts", "sharded", size))


@pytest.mark.parametrize("kind", ["Items", "InTurn"])
def test_datasets_are_shared_too(several, kind):
    """Shards of Datasets are shuffled by each process for itself: the model is another, and the same in all of them."""
    X = table()[0]
    alone = answers(script.QuantileVAE(3, early_stopping=True, **script.KW).fit(getattr(script, kind)(X)))
    for size in (2, 3):
        told = found(several, kind, "replicated", size)
        assert_same_everywhere(told)
        assert np.abs(told[0]["weights"] - alone["weights"]).max() < 1e-4
        told = found(several, kind, "sharded", size)
        assert_same_everywhere(told)
        np.testing.assert_allclose(told[0]["loss"], alone["loss"], rtol=0.3)


def test_seeds_ends_and_checkpoints_are_those_of_all(tmp_path):
    codes, told = finish(start("others", tmp_path, 2))
    assert codes == [0, 0], told
    # A thread of gloo that puts a message away while the interpreter ends would abort the process.
    assert not [
        name for rank in (0, 1) for name in (tmp_path / f"threads {rank}.txt").read_text().split() if "gloo" in name
    ]
    for name in ("free", "ended", "kept", "drawn", "start", "few", "low"):
        assert_same_everywhere([dict(np.load(tmp_path / f"{name} {rank}.npz")) for rank in (0, 1)])
    assert len(np.load(tmp_path / "ended 0.npz")["loss"]) == 1
    # A training that was begun by two processes goes on in one.
    whole = answers(train("batch"))
    assert np.abs(np.load(tmp_path / "kept 0.npz")["weights"] - whole["weights"]).max() < 1e-4
    alone = CASES["batch"]().set_params(checkpoint=tmp_path / "kept.pt", max_epochs=4).fit(table()[0])
    assert alone.n_iter_ == 4
    # In bfloat16, where the processor gains by it, gradients of each process are rounded before they are added.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it does not
        low = answers(CASES["batch"]().set_params(precision="bfloat16").fit(table()[0]))
    np.testing.assert_allclose(np.load(tmp_path / "low 0.npz")["loss"], low["loss"], rtol=1e-3)
    # A Dataset that shuffles itself comes in the same order everywhere, so that each row is seen once.
    assert [(tmp_path / f"seen {rank}.txt").read_text() for rank in (0, 1)] == ["403", "403"]
    assert "not all processes came to fit: one has ended" in (tmp_path / "left.txt").read_text()


SAID = {
    "parameter": ("lr is 0.02 in process 0 and 0.01 in process 1",) * 2,
    "invalid": ("process 1 of 2 failed, so the others end: ValueError: RiskAwareVAE: lr must be", "lr must be"),
    "features": ("the number of features of X is 12 in process 0 and 11 in process 1",) * 2,
    "data": ("X is 202 rows of 12 features in process 0 and 201 rows of 12 features in process 1",) * 2,
    "same": ("Set distributed='replicated', or give each process its part",) * 2,
    "infinity": (
        "process 1 of 2 failed, so the others end: ValueError: X holds inf",
        "Input X contains infinity",
    ),
    "callback": ("process 1 of 2 failed, so the others end: OSError: the disk is full", "OSError: the disk is full"),
    "within": ("Let it ask at the end of an epoch",) * 2,
    "weights": ("the weights of process 1 differ from those of process 0 after epoch 1",) * 2,
    "norm": ("Use a layer that keeps rows apart, such as LayerNorm, or set distributed=None",) * 2,
    "call": ("the method that was called is fit in process 0 and partial_fit in process 1",) * 2,
    "file": ("one.pt in process 0 and None in process 1",) * 2,
    "labels": ("groups is given as labels in process 0 and given as integers in process 1",) * 2,
    "item": ("groups is not there in process 0 and given as integers in process 1",) * 2,
    "once": ("gave no rows in this epoch in process 1; give one that can be iterated again",) * 2,
    "end": ("process 1 of 2 failed, so the others end: OSError: the disk is full", "OSError: the disk is full"),
    "changed": ("the weights of process 1 differ from those of process 0 after epoch 3",) * 2,
    "further": ("a model that is trained further must be the same in all of them",) * 2,
    "compile": ("Set compile=False, or distributed=None",) * 2,
    "transform": ("the transform of X is StandardScaler() in process 0 and another StandardScaler() in process 1",) * 2,
    "worker": ("was started by one of them. Use n_jobs=1 in searches",) * 2,
    "killed": ("one of 2 processes is gone, so this one, number 0, ends. It was killed",),
}


def test_what_fails_in_one_process_ends_all_with_a_reason(tmp_path):
    """Within a minute, one after another in the same processes, until one is killed."""
    codes, told = finish(start("failures", tmp_path, 2))
    assert codes == [0, -9], told
    for name, said in SAID.items():
        for rank, expected in enumerate(said):
            seconds, message = (tmp_path / f"{name} {rank}.txt").read_text().split("\n", 1)
            assert expected in message, (name, rank, message)
            assert float(seconds) < 60


def test_the_example_runs_as_it_says():
    """By torchrun, in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "examples/train_together.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d+ epochs, epoch \d+ kept by all of 2 processes\nworst tenth: ", done.stdout)


def test_one_that_waits_for_others_says_so_and_does_not_wait_for_ever(X):
    """The second process never comes to fit."""
    code = (
        "import datetime, numpy as np; from riskvae import BetaVAE; from riskvae.training import _meeting as w; "
        "w._SOON, w._PATIENCE = 1, datetime.timedelta(seconds=4); "
        "BetaVAE(2, distributed='replicated').fit(np.eye(4))"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ | found, check=False
    )
    assert "process 0 has waited 1 seconds for others that have not come to fit" in done.stderr
    assert "not all processes came to fit" in done.stderr
    assert "outside of any 'if RANK == 0'" in done.stderr


def test_a_process_that_stands_alone_is_told_so(X, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=r"torchrun --nproc-per-node 2 train\.py, or set_params"):
        BetaVAE(2, distributed="replicated").fit(X)
    with pytest.raises(ValueError, match="distributed must be None, or one of 'replicated', 'sharded'; got 'ddp'"):
        BetaVAE(2, distributed="ddp").fit(X)
