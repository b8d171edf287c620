"""What a training process asks of the machine. torch is not loaded before it is needed."""

import ctypes
import os
import sys
from functools import cache

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


ONE_THREAD_BELOW = 5_000_000
"""Parameters. The operations of a smaller encoder are too short to be worth waking a second thread: tiny BERT does
19,100 tokens per second on one thread and 8,400 on two (two idle cores)."""


def fit_threads(parameters: int) -> None:
    """Compute a small model with one thread and a larger one with all, unless `OMP_NUM_THREADS` says otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        everything = _threads_at_first()
        torch.set_num_threads(1 if parameters < ONE_THREAD_BELOW else everything)


@cache
def _threads_at_first() -> int:
    """torch's own choice, which knows the cores that this process may use."""
    import torch

    return torch.get_num_threads()
