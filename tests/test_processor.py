"""Which matrix products a processor gets: by what is known of it, so that the same fit has the same digits."""

import os
import re
import subprocess
import sys

import pytest

import riskvae
from riskvae._processor import Processor, processor, read_processor
from riskvae.nets import _linear
from riskvae.nets._linear import choose

CPUINFO = """processor	: 0
vendor_id	: {vendor}
cpu family	: {family}
model		: 17
model name	: A processor: with a colon
flags		: fpu avx2 avx512f {flags}

processor	: 1
vendor_id	: of the second core
flags		: amx_bf16
"""


def linux(vendor, family, flags=""):
    return read_processor(CPUINFO.format(vendor=vendor, family=family, flags=flags))


ZEN4, ZEN5 = linux("AuthenticAMD", 25, "avx512_bf16"), linux("AuthenticAMD", 26, "avx512_bf16")
XEON = linux("GenuineIntel", 6, "avx512_bf16 amx_bf16 amx_tile")
HERE = {"available": True, "avx512": True}


def test_a_processor_tells_its_first_core():
    assert Processor("A processor: with a colon", "AMD", 25, "AVX-512") == ZEN4
    assert Processor("A processor: with a colon", "Intel", 6, "AMX") == XEON
    assert linux("HygonGenuine", 24)[1:] == ("HygonGenuine", 24, "")


@pytest.mark.parametrize(
    ("told", "vendor", "family"),
    [
        ("AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD", "AMD", 26),
        ("Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", "Intel", 6),
        ("arm", "unknown", None),
        ("", "unknown", None),
    ],
)
def test_a_processor_without_proc(told, vendor, family):
    found = read_processor("", told)
    assert found == Processor(told or "unknown", vendor, family, "")


def test_a_processor_of_linux_on_arm():
    found = read_processor(
        "processor	: 0\nBogoMIPS	: 50.00\nFeatures	: fp asimd bf16\nCPU part	: 0xd40\n\n"
    )
    assert found == Processor()


@pytest.mark.parametrize(
    ("machine", "facts", "onednn", "why"),
    [
        (ZEN5, {}, True, "since Zen 5"),
        (ZEN5._replace(family=27), {}, True, "since Zen 5"),
        (ZEN4, {}, False, "before Zen 5"),
        (ZEN5._replace(family=None), {}, False, "before Zen 5"),
        (XEON, {}, False, "on Intel"),
        (Processor(), {}, False, "nothing is known"),
        (linux("CentaurHauls", 26), {}, False, "nothing is known"),
        (ZEN5, {"avx512": False}, False, "without AVX-512"),
        (ZEN5, {"available": False}, False, "no other"),
    ],
)
def test_the_rule(machine, facts, onednn, why):
    found, told = choose("auto", machine, **HERE | facts)
    assert (found, why in told) == (onednn, True)


def test_asked_for():
    for machine in (ZEN4, ZEN5, XEON, Processor()):
        for avx512 in (True, False):
            facts = HERE | {"avx512": avx512}
            assert choose("torch", machine, **facts) == (False, "asked for by RISKVAE_MATMUL")
            assert choose("onednn", machine, **facts) == (True, "asked for by RISKVAE_MATMUL")
    with pytest.warns(UserWarning, match="RISKVAE_MATMUL='onednn': this torch has no oneDNN"):
        assert not choose("onednn", ZEN5, available=False, avx512=True)[0]
    message = "RISKVAE_MATMUL must be 'auto', 'torch' or 'onednn'; got 'mkl'. Set the environment variable"
    with pytest.raises(ValueError, match=re.escape(message)):
        choose("mkl", ZEN5, **HERE)


def run(code, asked):
    environment = {**os.environ, "RISKVAE_MATMUL": asked}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_the_environment_variable_is_read_at_import():
    told = {asked: run("import riskvae; riskvae.show_versions()", asked) for asked in ("torch", "onednn", "nothing")}
    assert "matrix products torch's own: asked for by RISKVAE_MATMUL\n" in told["torch"].stdout
    if _linear._AVAILABLE:
        line = "matrix products oneDNN, of 4,194,304 multiplications or more in training: asked for by RISKVAE_MATMUL"
        assert line in told["onednn"].stdout
    assert told["nothing"].returncode == 1
    last = told["nothing"].stderr.splitlines()[-1]
    assert last.startswith("ValueError: RISKVAE_MATMUL must be 'auto', 'torch' or 'onednn'; got 'nothing'.")


def test_two_processes_train_the_same_model():
    code = """
import numpy as np, riskvae
X = np.random.default_rng(0).random((600, 60), dtype=np.float32)
vae = riskvae.BetaVAE(2, hidden_layer_sizes=(300,), max_epochs=2, random_state=0, device="cpu").fit(X)
print(vae.transform(X).tobytes().hex()[:200], vae.history_[-1]["train_loss"])
"""
    for asked in ("auto", "onednn"):
        first, second = (run(code, asked) for _ in range(2))
        assert first.stdout == second.stdout != "", first.stderr


def test_versions(capsys):
    riskvae.show_versions()
    told = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace("matrix products", "by").splitlines()
    )
    assert told["riskvae"] == riskvae.__version__
    assert told["processor"].startswith(processor().name)
    assert {"python", "torch", "numpy", "scikit-learn", "skorch", "cores", "threads", "by", "bfloat16"} <= set(told)
    assert told["devices"].startswith("cpu")
