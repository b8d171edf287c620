"""What a training process asks of the machine, before torch is loaded."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGE = 2**30
"""Bytes; glibc takes a C int."""


def prepare() -> None:
    """Settings of threads and memory that make training on a CPU faster and change no number.

    Worker threads of OpenMP sleep while they wait: where another program wants the same core, spinning ones cost
    a factor of 9 (1,160 against 10,400 tokens per second, tiny BERT on two shared cores). glibc keeps large
    blocks of memory in place of giving them back to the system at each step.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, LARGE)
            libc.mallopt(M_TRIM_THRESHOLD, LARGE)
