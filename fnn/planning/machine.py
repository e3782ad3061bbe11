"""The machine that JAX's CPU programs run on, as far as costs depend on it."""

import os
import platform
import re
from pathlib import Path

import jax

__all__ = ["describe_machine", "instruction_set", "processor"]

#: Sets of vector instructions by the flag that Linux lists, the widest first.
INSTRUCTION_SETS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}

#: XLA's names of sets that `--xla_cpu_max_isa` may limit it to, below those above.
LIMITS = {"SSE4_2": "SSE4.2", "AVX": "AVX", "AVX2": "AVX2"}


def processor() -> str:
    """Return the name of the processor, as Linux has it, or as Python does."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def instruction_set() -> str:
    """Return the vector instructions that XLA compiles for, such as "AVX2".

    Where they cannot be told, it is the name of the architecture, such as "arm64".
    """
    limit = re.search(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", ""))
    if limit and limit[1] in LIMITS:
        return LIMITS[limit[1]]
    flags = set(_cpu_info("flags").split())
    known = (name for flag, name in INSTRUCTION_SETS.items() if flag in flags)
    return next(known, platform.machine() or "an unknown processor")


def describe_machine() -> str:
    """Return the processor, its instructions and cores, and the version of jax."""
    cores = os.cpu_count()
    return f"{processor()}, {instruction_set()}, {cores} cores, jax {jax.__version__}"


def _cpu_info(entry: str) -> str:
    """Return the first value of an entry of /proc/cpuinfo, "" where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{entry}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
