"""What a job may change of the process it runs in, and its restoration: no job of a sweep changes another."""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_settings_restored() -> Iterator[None]:
    """Leave generators, torch's switches, levels of loggers and the environment as they were before the block."""
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    matmul, gradients = torch.get_float32_matmul_precision(), torch.is_grad_enabled()
    anomaly, anomaly_checks_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(anomaly, anomaly_checks_nan)
        torch.set_grad_enabled(gradients)
        if torch.get_float32_matmul_precision() != matmul:
            torch.set_float32_matmul_precision(matmul)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        for name, level in levels.items():
            if logging.getLogger(name).level != level:  # setting one walks through all loggers
                logging.getLogger(name).setLevel(level)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
