"""What a GPU asks for, held with stand-ins where there is none: `benchmarks/device.py` holds the rest on a real one."""

import re
import threading
from pathlib import Path

import pytest
import torch

from riskvae import _machine
from riskvae._machine import device_for, torch_as_usual
from riskvae.risk import group_means
from riskvae.risk._order import running_sum
from riskvae.training import Batch
from riskvae.training._rows import Rows

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


class Settings:
    """In place of torch.backends.cudnn."""

    def __init__(self, deterministic=False, benchmark=True):
        self.deterministic, self.benchmark = deterministic, benchmark

    @property
    def now(self):
        return self.deterministic, self.benchmark


@pytest.fixture(params=[(False, True), (False, False), (True, True)], ids=str)
def cudnn(request, monkeypatch):
    settings = Settings(*request.param)
    monkeypatch.setattr(torch.backends, "cudnn", settings)
    return settings


REPEATABLE = (True, False)


def test_cudnn_is_repeatable_on_a_gpu_and_as_it_was_after(cudnn):
    before = cudnn.now
    with torch_as_usual(CUDA):
        assert cudnn.now == REPEATABLE
        with torch_as_usual(CUDA):  # fit judges its model
            assert cudnn.now == REPEATABLE
        assert cudnn.now == REPEATABLE
    assert cudnn.now == before
    with pytest.raises(KeyboardInterrupt), torch_as_usual(CUDA):
        raise KeyboardInterrupt
    assert cudnn.now == before
    for device in (CPU, MPS):
        with torch_as_usual(device):
            assert cudnn.now == before


def test_settings_that_cannot_be_made_leave_no_trace(cudnn, monkeypatch):
    class Refuses:
        deterministic = property(lambda self: False, lambda self, value: 1 / 0)
        benchmark = False

    with monkeypatch.context() as patch:
        patch.setattr(torch.backends, "cudnn", Refuses())
        with pytest.raises(ZeroDivisionError):
            torch_as_usual(CUDA)
    before = cudnn.now
    with torch_as_usual(CUDA):
        assert cudnn.now == REPEATABLE
    assert cudnn.now == before


def test_of_several_threads_the_last_puts_cudnn_back(cudnn):
    """Whichever ends first: the settings are those of the process."""
    before, inside, first_is_out = cudnn.now, threading.Barrier(2, timeout=30), threading.Event()
    seen = []

    def first():
        with torch_as_usual(CUDA):
            inside.wait()
        first_is_out.set()

    def second():
        with torch_as_usual(CUDA):
            inside.wait()
            first_is_out.wait(30)
            seen.append(cudnn.now)

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [REPEATABLE]
    assert cudnn.now == before
    assert not _machine._cudnn_before


def test_double_precision_is_computed_where_there_is_one():
    single, double = torch.float32, torch.float64
    assert [device_for(single, device) for device in (CPU, CUDA, MPS)] == [CPU, CUDA, MPS]
    assert [device_for(double, device) for device in (CPU, CUDA, MPS)] == [CPU, CUDA, CPU]


def test_nothing_becomes_double_before_it_is_on_the_cpu():
    """Nor on the way there: MPS refuses both."""
    wrong = re.compile(r"\.double\(\)\)*\.cpu\(\)|\.to\([^()]*cpu[^()]*float64\)")
    package = Path(_machine.__file__).parent
    lines = [line for file in package.rglob("*.py") for line in file.read_text().splitlines() if wrong.search(line)]
    assert lines == []


def test_rows_that_are_there_are_not_fetched(monkeypatch):
    """Tensors on "mps" say that they are on "mps:0", which torch does not take for the same; so with "cpu" here."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pytest.fail("rows are fetched"))
    rows = Rows(Batch(torch.arange(10.0)[:, None]), torch.device("cpu", 0))
    assert torch.equal(torch.cat([batch.x for batch in rows.batches(3, None)]), rows.data.x)


class OnGPU(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = property(lambda self: True)


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 8), (3, 5)])
def test_running_sums_are_the_same_by_either_way(shape):
    values = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(running_sum(values), values.cumsum(-1))
    assert torch.equal(running_sum(values.as_subclass(OnGPU)), values.cumsum(-1))


def test_means_of_many_groups_are_the_same_by_every_way(monkeypatch):
    losses = torch.randint(-9, 9, (40,), generator=torch.Generator().manual_seed(0)).double()
    groups = torch.arange(40) % 7
    expected = group_means(losses, groups)
    monkeypatch.setattr("riskvae.risk._groups._MOST_MEMBERS", 0)
    for given in (losses, losses.as_subclass(OnGPU)):
        given = given.clone().requires_grad_()
        found = group_means(given, groups)
        assert torch.equal(found, expected)
        (slopes,) = torch.autograd.grad(found[3], given)
        assert torch.equal(slopes, torch.where(groups == 3, 1 / (groups == 3).sum().double(), 0.0))
