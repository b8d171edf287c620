"""What a step of bert-base in stage 1 costs on a GPU, with padding and without, compiled and not: `gpu.csv`.

    python experiments/throughput/gpu.py

Random word pieces in batches of like length, of about 28,000 tokens each: 1,024 texts as short as those of `mr`, or 128
of 200 to 256 tokens. A row has tokens a second over 16 batches, no two of one shape, and what share that is of the rate
of matrix products; then, of 4 batches, how long the GPU works at what (torch's profiler).
"""

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from bench import flops_of_token
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig
from worker import limit

from poolwise.encoder import BertForMaskedLMWithPooler
from poolwise.packing import Packing

HERE = Path(__file__).parent
DEVICE = torch.device("cuda")
TEXTS = {"short": (1024, 12, 50), "long": (128, 200, 256)}
"""How many a batch has, and of how many tokens."""
WAYS = [
    ("short", "with padding", ""),
    ("short", "without padding", ""),
    ("short", "without padding", "layers"),
    ("long", "with padding", ""),
    ("long", "without padding", ""),
    ("long", "with padding", "layers"),
    ("long", "without padding", "layers"),
    ("long", "without padding", "model"),
]
"""Texts, padding, and what is compiled."""
FIRST, TIMED, PROFILED = 4, 16, 4
KINDS = {
    "attention": "flash|fmha",
    "matrix products": "gemm|nvjet|cutlass|wgmma",
    "optimiser": "adam|multi_tensor|lpnorm",
    "compiled": "triton",
    "layer norm": "layer_norm|LayerNorm|GammaBeta",
    "dropout": "dropout",
    "copies": "Memcpy|Memset",
}
"""Of kernels, by what their names hold; all others are elementwise."""
SPREAD = 3
"""Tokens by which texts of a batch differ in length."""


def batches(count: int, shortest: int, longest: int, number: int) -> list[dict[str, Any]]:
    """Batches of `count` texts of like length, each of another, 15 % of their tokens masked."""
    random, found = np.random.default_rng(0), []
    for _ in range(number):
        top = int(random.integers(shortest + SPREAD, longest + 1))
        lengths = random.integers(top - SPREAD, top + 1, size=count)
        present = np.arange(lengths.max()) < lengths[:, None]
        ids = torch.from_numpy(np.where(present, random.integers(1000, 30000, present.shape), 0))
        masked = torch.from_numpy(present & (random.random(present.shape) < 0.15))
        tensors = {
            "input_ids": ids,
            "attention_mask": torch.from_numpy(present).long(),
            "labels": torch.where(masked, ids, -100),
            "masked_positions": masked.flatten().nonzero().squeeze(1),
        }
        moved = {name: tensor.to(DEVICE) for name, tensor in tensors.items()}
        found.append(moved | {"packing": Packing.of(present).to(DEVICE), "lengths": lengths})
    return found


class Steps:
    """Training steps of a bert-base with random weights, in bf16."""

    def __init__(self, padding: str, compiled: str) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = BertForMaskedLMWithPooler(BertConfig()).train().to(DEVICE)
        self.packed = padding == "without padding"
        if self.packed:
            self.model.leave_out_padding()
        if compiled == "layers":
            self.model.compile_layers()
        elif compiled == "model":
            self.model.compile(dynamic=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def __call__(self, batch: dict[str, Any]) -> None:
        """One step."""
        left_out = {"lengths"} if self.packed else {"lengths", "packing"}
        given = {name: value for name, value in batch.items() if name not in left_out}
        with torch.autocast("cuda", torch.bfloat16):
            loss = self.model(**given, masked_only=True).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def seconds(step: Steps, given: list[dict[str, Any]]) -> float:
    """How long steps take."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for batch in given:
        step(batch)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def busy(step: Steps, given: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds a step that the GPU works at each kind of kernel, and how many kernels that are."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        seconds(step, given)
    kernels = [event for event in profiled.events() if event.device_type == DeviceType.CUDA]
    spent: Counter[str] = Counter()
    for kernel in kernels:
        kind = next((kind for kind, names in KINDS.items() if re.search(names, kernel.name)), "elementwise")
        spent[kind] += kernel.time_range.elapsed_us() / 1000 / len(given)
    return {"kernels": len(kernels) / len(given), **spent}


def main() -> None:
    """Measure each way."""
    rows, rate = [], limit(half=True)
    for texts, padding, compiled in WAYS:
        given = batches(*TEXTS[texts], FIRST + TIMED)
        step = Steps(padding, compiled)
        torch.cuda.reset_peak_memory_stats()
        first, timed = seconds(step, given[:FIRST]), seconds(step, given[FIRST:])
        lengths = np.concatenate([batch["lengths"] for batch in given[FIRST:]])
        work = lengths.sum() * flops_of_token(BertConfig(), lengths, "stage1")
        rows.append(
            {"texts": texts, "padding": padding, "compiled": compiled, "gpu": torch.cuda.get_device_name()}
            | {"tokens_per_second": lengths.sum() / timed, "share_of_limit": work / timed / rate}
            | {"milliseconds": 1000 * timed / TIMED, "first_seconds": first}
            | {"peak_gib": torch.cuda.max_memory_allocated() / 2**30, **busy(step, given[:PROFILED])}
        )
        print(rows[-1], flush=True)
        pandas.DataFrame(rows).to_csv(HERE / "gpu.csv", index=False, float_format="%.4g")
        del step
        torch.cuda.empty_cache()
        torch.compiler.reset()


if __name__ == "__main__":
    main()
