"""What a benchmark says of the machine it ran on."""

import os
import platform
from pathlib import Path

import torch


def processor():
    """The processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine():
    """Processor, its widest instructions as torch sees them, number of cores, and versions that decide the speed."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "onednn": torch.backends.mkldnn.is_available(),
    }


def load():
    """How many processes computed during the last minute, these included; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
