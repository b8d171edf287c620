"""What the settings of speed that `bench.py` does not vary are worth: `settings.csv`.

    python experiments/throughput/settings.py ../shared/data FOLDER [NAME ...]

`FOLDER` is that of `bench.py`; all is measured, or what is named, and rows of what is not named are kept:

- `steps`: a step of minilm, MLM alone, with each way of computing replaced by the plain one.
- `positions`: tokens a second of tiny with logits for a multiple of so many masked positions, from its first step on.
- `optimisers`: fused AdamW beside torch's other two, milliseconds a step.
- `pools`: the share of padding with pools of so many batches, in the batches of `bench.py` for minilm.
- `workers`: seconds of a stage 1 on `mr` with so many loader processes.
- `budgets`: its tokens a second in batches of so many texts, or of about as many tokens as these have.
- `memory`: its tokens a second and peak of memory after so many steps, where glibc keeps memory and where it does not.
- `precisions`: what an epoch of each stage comes to in bf16 and in fp32, with the same seeds.
- `imports`: seconds of importing what a job needs, with Python's start, and of each package's own modules among them.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from poolwise import app, machine

machine.prepare()  # before torch is loaded

import numpy as np  # noqa: E402
import pandas  # noqa: E402
import torch  # noqa: E402
from bench import (  # noqa: E402
    CELLS,
    HERE,
    LENGTHS,
    UNPROBED,
    asked,
    bf16_pays,
    model_folder,
    of_record,
    program,
    shared_settings,
)
from torch import nn  # noqa: E402
from transformers import AutoModelForMaskedLM, AutoTokenizer  # noqa: E402
from worker import device, synchronise  # noqa: E402

from poolwise import cross_entropy, dropout, encoder  # noqa: E402
from poolwise.data import batching  # noqa: E402

STEPS = 16
"""Of which the first two make ready. Each batch is computed once untimed in each way: what oneDNN makes ready for a new
length would fall on the way that meets it first."""
ROUNDS = 3
STEPS_TIMED = 3
SIZES = ("tiny", "minilm", "base")
POOLS = (1, 5, 50, 10**9)
WORKERS = (0, 1, 2)
BUDGETS = {
    "mr": ("batch_size=64", "batch_tokens=1750"),
    "imdb": ("batch_size=16", "batch_tokens=3400"),
}
TRIM = "MALLOC_TRIM_THRESHOLD_"
TUNABLES = "GLIBC_TUNABLES"
ALLOCATOR = {
    "kept, as poolwise has it": {},
    "as glibc has it": {TUNABLES: "glibc.malloc.perturb=0"},
    "given back at once": {TRIM: "131072"},
}
"""The second changes nothing but that poolwise leaves glibc alone; the third turns off too that glibc keeps more as
larger blocks are freed."""
KEPT = {("tiny", 100): 2, ("tiny", 800): 1, ("minilm", 40): 2, ("base", 10): 1}
"""Steps of stage 1, and how often they are measured."""

POSITIONS = (1, 32)
SEEDS, PRECISIONS = (1, 2), ("bf16-mixed", "32-true")
LARGER = "protocol.batch_size=64"
IMPORTED = """
from poolwise import app, machine
with machine.uncollected():
    from poolwise import jobs, objectives
    from poolwise.stages import sweep
"""
IMPORT = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)
"""A module's own microseconds, those of what it imports left out, and its name, as `-X importtime` tells them."""
LEAST_IMPORT = 0.1
"""Seconds; packages below it have no row."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How a step is computed; as poolwise does it on a CPU unless told otherwise."""

    masked_only: bool = True
    only_read: bool = True
    quick_dropout: bool = True
    rows_at_once: int = encoder.ROWS_AT_ONCE
    loss_by_rows: bool = True
    half: bool = True


PLAIN = "as it is"
WAYS = {
    PLAIN: Way(),
    "the last layer whole": Way(only_read=False),
    "the last layer whole, logits at all positions": Way(only_read=False, masked_only=False),
    "logits for no multiple of 32 positions": Way(rows_at_once=1),
    "torch's cross entropy": Way(loss_by_rows=False),
    "torch's dropout and attention": Way(quick_dropout=False),
    "fp32": Way(half=False),
}


def steps(folder: Path) -> Iterator[Row]:
    """Milliseconds of a step in each way, all on the same batches in random order; times are ratios within a batch."""
    random = np.random.default_rng(1)
    for data in LENGTHS:
        given = ["stage=mlm", "objective=none", f"pretraining.batch_size={CELLS['minilm', data].batch}"]
        job = app.planned(app.composed(app.prepared([*given, *shared_settings(folder, "minilm", data)])), [])
        stage, texts = job.build()
        model = stage.model.train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        made: list[float] = []
        batches = chain.from_iterable(repeat(texts.train_dataloader()))
        for _ in range(STEPS):
            began = time.perf_counter()
            batch = next(batches)
            made.append(1000 * (time.perf_counter() - began))
            for name in WAYS:
                milliseconds_of(WAYS[name], model, optimiser, batch)
            for name in random.permutation(list(WAYS)):
                found[name].append(milliseconds_of(WAYS[name], model, optimiser, batch))
        plain = np.array(found[PLAIN][2:])
        for name, times in found.items():
            share = np.array(times[2:]) / plain
            figures = {"milliseconds": statistics.median(times[2:]), "times": float(np.median(share))}
            figures |= {"least": float(np.quantile(share, 0.25)), "most": float(np.quantile(share, 0.75))}
            yield {"where": data, "choice": name} | figures
        batch_made = {"milliseconds": statistics.median(made[2:])}
        yield {"where": data, "choice": "a batch, masked and padded"} | batch_made


def milliseconds_of(way: Way, model: Any, optimiser: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """Of a forward and backward pass, and AdamW."""
    kinds = (dropout.Dropout, nn.Dropout)[:: 1 if way.quick_dropout else -1]
    for module in model.modules():
        if type(module) is kinds[1]:
            module.__class__ = kinds[0]
    model.set_attn_implementation(dropout.QUICK if way.quick_dropout else "sdpa")
    encoder.ROWS_AT_ONCE = way.rows_at_once
    encoder.is_by_rows = cross_entropy.is_by_rows if way.loss_by_rows else lambda _: False
    labels, at = batch["labels"], batch["masked_positions"]
    given = {"masked_only": True, "masked_positions": at, "only_read": way.only_read} if way.masked_only else {}
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way.half and bf16_pays()):
        output = model(batch["input_ids"], batch["attention_mask"], labels=labels, **given)
    output.loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return 1000 * (time.perf_counter() - began)


def optimisers(folder: Path) -> Iterator[Row]:
    """Milliseconds of a step of AdamW with the gradients that are there, in turns."""
    kinds: dict[str, dict[str, bool]] = {"fused": {"fused": True}, "foreach": {"foreach": True}}
    kinds["one tensor at a time"] = {"foreach": False, "fused": False}
    for size in SIZES:
        model = AutoModelForMaskedLM.from_pretrained(model_folder(folder, size)).to(device())
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(ROUNDS):
            for kind, choice in kinds.items():
                optimiser = torch.optim.AdamW(model.parameters(), **choice)
                optimiser.step()  # makes its state
                synchronise()
                began = time.perf_counter()
                for _ in range(STEPS_TIMED):
                    optimiser.step()
                synchronise()
                found[kind].append(1000 * (time.perf_counter() - began) / STEPS_TIMED)
        for kind, times in found.items():
            yield {"where": size, "choice": kind, "milliseconds": statistics.median(times)}


def pools(folder: Path) -> Iterator[Row]:
    """The share of a padded batch that is padding, over an epoch."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(folder, "minilm"))
    for data in LENGTHS:
        texts = pandas.read_csv(folder / f"data/{data}_train.tsv", sep="\t", quoting=3)["text"]
        ids = tokenizer(list(texts), truncation=True, max_length=LENGTHS[data]).input_ids
        lengths = np.array([len(each) for each in ids])
        for pool in POOLS:
            batching.BATCHES_PER_POOL = pool
            batches = batching.LengthGroupedBatches(lengths, CELLS["minilm", data].batch, seed=1)
            sizes = [lengths[[example for _, example in batch]] for batch in batches]
            padded = sum(len(each) * int(each.max()) for each in sizes)
            words = "all" if pool > len(batches) else str(pool)
            yield {"where": data, "choice": words, "padding": float(1 - lengths.sum() / padded)}


def workers(folder: Path) -> Iterator[Row]:
    """Seconds of training in stage 1, by turns."""
    for size in ("tiny", "minilm"):
        plan = CELLS[size, "mr"]
        found: dict[int, list[float]] = {count: [] for count in WORKERS}
        for _ in range(ROUNDS):
            for count, seconds in found.items():
                given = (f"budget={plan.steps}steps", f"pretraining.batch_size={plan.batch}", f"workers={count}")
                seconds.append(of_record(program(folder, size, "mr", "stage=mlm", *given))["seconds"])
        for count, seconds in found.items():
            yield {"where": size, "choice": count, "seconds": statistics.median(seconds)}


def budgets(folder: Path) -> Iterator[Row]:
    """Tokens a second of stage 1, by turns."""
    for data, choices in BUDGETS.items():
        steps = CELLS["minilm", data].steps
        found: dict[str, list[float]] = {choice: [] for choice in choices}
        for _ in range(ROUNDS):
            for choice, rates in found.items():
                given = (f"budget={steps}steps", "objective=none", *(f"pretraining.{each}" for each in choice.split()))
                record = of_record(program(folder, "minilm", data, "stage=mlm", *given))
                rates.append(record["tokens"] / record["seconds"])
        for choice, rates in found.items():
            row = {"where": data, "choice": choice, "tokens_per_second": statistics.median(rates)}
            yield row | {"least": min(rates), "most": max(rates)}


def memory(folder: Path) -> Iterator[Row]:
    """Tokens a second and the peak of memory after so many steps of stage 1, by turns."""
    for (size, steps), rounds in KEPT.items():
        settings = ("stage=mlm", "objective=none", f"budget={steps}steps", "pretraining.batch_size=64")
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ALLOCATOR}
        for name in [*ALLOCATOR, *reversed(ALLOCATOR)][: rounds * len(ALLOCATOR)]:
            before = dict(os.environ)
            os.environ |= ALLOCATOR[name]
            found[name].append(of_record(program(folder, size, "mr", *settings)))
            os.environ.clear()
            os.environ |= before
        for name, records in found.items():
            rates = [record["tokens"] / record["seconds"] for record in records]
            row = {"where": f"{size}, {steps} steps", "choice": name}
            row |= {"tokens_per_second": statistics.median(rates), "least": min(rates), "most": max(rates)}
            yield row | {"peak_mib": max(record["peak_mib"] for record in records)}


def positions(folder: Path) -> Iterator[Row]:
    """Tokens a second of stage 1, by turns; new batches bring new numbers of masked positions."""
    settings = ("stage=mlm", "objective=none", f"budget={CELLS['tiny', 'mr'].steps}steps", "pretraining.batch_size=64")
    found: dict[int, list[float]] = {count: [] for count in POSITIONS}
    for _ in range(ROUNDS):
        for count, rates in found.items():
            rows = f"from poolwise import encoder; encoder.ROWS_AT_ONCE = {count}"
            start = ("-c", UNPROBED.replace("app.main()", f"{rows}; app.main()"))
            record = of_record(program(folder, "tiny", "mr", *settings, start=start))
            rates.append(record["tokens"] / record["seconds"])
    for count, rates in found.items():
        row = {"where": "tiny", "choice": count, "tokens_per_second": statistics.median(rates)}
        yield row | {"least": min(rates), "most": max(rates)}


def precisions(folder: Path) -> Iterator[Row]:
    """An epoch of each stage from minilm on `mr`, in both precisions with the same seeds."""
    stages = {
        "dev/mlm_loss": ("stage=mlm", "objective=none", "pretraining.epochs=1"),
        "dev/accuracy": ("stage=sentiment", "encoder=base", "repr=pooler", "protocol.epochs=1", LARGER),
    }
    for seed in SEEDS:
        for metric, settings in stages.items():
            for precision in PRECISIONS:
                given = (*settings, f"seed={seed}", f"trainer.precision={precision}")
                record = program(folder, "minilm", "mr", *given, start=("train.py",))
                row = {"where": f"{metric}, seed {seed}", "choice": precision}
                yield row | {"figure": record["metrics"][metric]}


def imports(_folder: Path) -> Iterator[Row]:
    """Seconds of all imports of a job in a process of its own, and of each package's own modules among them."""
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        told = subprocess.run([sys.executable, "-X", "importtime", "-c", IMPORTED], capture_output=True, check=True)
        of_process = {"all, and Python's start": time.perf_counter() - began}
        for microseconds, name in IMPORT.findall(told.stderr.decode()):
            package = name.split(".")[0]
            of_process[package] = of_process.get(package, 0.0) + int(microseconds) / 1e6
        for name, seconds in of_process.items():
            found.setdefault(name, []).append(seconds)
    for name, each in found.items():
        if (seconds := statistics.median(each)) >= LEAST_IMPORT:
            yield {"where": "a job", "choice": name, "seconds": seconds}


MEASURES = {
    "steps": steps,
    "positions": positions,
    "optimisers": optimisers,
    "pools": pools,
    "workers": workers,
    "budgets": budgets,
    "memory": memory,
    "precisions": precisions,
    "imports": imports,
}


def main() -> None:
    """Measure what is named, or all."""
    folder, chosen = asked(__doc__, MEASURES)
    file = HERE / "settings.csv"
    kept = pandas.read_csv(file) if file.exists() else pandas.DataFrame(columns=["setting"])
    kept = kept[~kept["setting"].isin(chosen)]
    rows: list[Row] = []
    for name in chosen:
        for row in MEASURES[name](folder):
            rows.append({"setting": name} | row)
            print(rows[-1], flush=True)
            pandas.concat([kept, pandas.DataFrame(rows)]).to_csv(file, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
