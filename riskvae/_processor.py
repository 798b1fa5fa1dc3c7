"""What is known of the processor: its maker, family and name, and which instructions of AVX-512 and AMX it has."""

import platform
import re
from functools import cache
from typing import NamedTuple

import torch

__all__ = ["Processor", "processor", "read_processor"]

# As processors name their makers.
_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
# What bfloat16 is multiplied by, as Linux and as torch name it.
_BFLOAT16 = {"AMX": "amx_bf16", "AVX-512": "avx512_bf16"}


class Processor(NamedTuple):
    """What is known of a processor.

    Parameters
    ----------
    name, vendor : str
        "unknown" where nobody tells; vendors other than Intel and AMD by the name that they give themselves.
    family : int or None
        Number of the generation, as vendors count: 25 is AMD's Zen 3 and 4, 26 Zen 5.
    bfloat16 : {"AMX", "AVX-512", ""}
        By which instructions products of bfloat16 are computed; empty where there are none that we know of.
    """

    name: str = "unknown"
    vendor: str = "unknown"
    family: int | None = None
    bfloat16: str = ""


def read_processor(cpuinfo: str, described: str = "") -> Processor:
    """Processor from the text of ``/proc/cpuinfo``, or else from what ``platform.processor()`` says.

    Examples
    --------
    >>> read_processor("", "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD")[1:3]
    ('AMD', 26)
    """
    found = {}
    for line in cpuinfo.partition("\n\n")[0].splitlines():  # the first core's
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    flags = found.get("flags", "").split()
    vendor = found.get("vendor_id") or described.partition(", ")[2]
    family = re.search(r"\d+", found.get("cpu family", "")) or re.search(r"(?<=Family )\d+", described)
    return Processor(
        found.get("model name") or described or "unknown",
        _VENDORS.get(vendor, vendor or "unknown"),
        None if family is None else int(family[0]),
        next((by for by, flag in _BFLOAT16.items() if flag in flags), ""),
    )


@cache
def processor() -> Processor:
    """The processor of this machine."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            cpuinfo = file.read(20_000)
    except OSError:  # not Linux
        cpuinfo = ""
    found = read_processor(cpuinfo, platform.processor())
    if cpuinfo:
        return found
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # of newer versions of torch
    return found._replace(bfloat16=next((by for by, flag in _BFLOAT16.items() if told.get(flag)), ""))
