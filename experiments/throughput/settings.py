"""What the settings of speed that `bench.py` does not vary are worth: `settings.csv`.

    python experiments/throughput/settings.py ../shared/data FOLDER [optimisers] [pools] [workers] [budgets]

`FOLDER` is that of `bench.py`. Fused AdamW beside torch's other two, milliseconds a step; the share of padding with
pools of so many batches, in those of `bench.py` for minilm; seconds of a stage 1 on `mr` with so many loader processes;
and its tokens a second in batches of so many texts, or of about as many tokens as these have. Rows of what is not named
are kept.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from bench import CELLS, HERE, LENGTHS, model_folder, of_record, prepare, program
from transformers import AutoModelForMaskedLM, AutoTokenizer
from worker import device, synchronise

from poolwise import machine
from poolwise.data import batching

ROUNDS = 3
STEPS_TIMED = 3
SIZES = ("tiny", "minilm", "base")
POOLS = (1, 5, 50, 10**9)
WORKERS = (0, 1, 2)
BUDGETS = {
    "mr": ("batch_size=64", "batch_tokens=1750"),
    "imdb": ("batch_size=16", "batch_tokens=3400"),
}

Row = dict[str, Any]


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
            yield {"setting": "AdamW", "where": size, "choice": kind, "milliseconds": statistics.median(times)}


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
            yield {"setting": "pool", "where": data, "choice": words, "padding": float(1 - lengths.sum() / padded)}


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
            yield {"setting": "workers", "where": size, "choice": count, "seconds": statistics.median(seconds)}


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
            row = {"setting": "batch", "where": data, "choice": choice, "tokens_per_second": statistics.median(rates)}
            yield row | {"least": min(rates), "most": max(rates)}


MEASURES = {"optimisers": optimisers, "pools": pools, "workers": workers, "budgets": budgets}
SETTINGS = {"optimisers": "AdamW", "pools": "pool", "workers": "workers", "budgets": "batch"}
"""What their rows are of."""


def main() -> None:
    """Measure what is named, or all."""
    machine.prepare()
    data, folder = (Path(each).absolute() for each in sys.argv[1:3])
    prepare(data, folder)
    chosen, file = sys.argv[3:] or list(MEASURES), HERE / "settings.csv"
    kept = pandas.read_csv(file) if file.exists() else pandas.DataFrame(columns=["setting"])
    kept = kept[~kept["setting"].isin([SETTINGS[name] for name in chosen])]
    rows: list[Row] = []
    for name in chosen:
        for row in MEASURES[name](folder):
            rows.append(row)
            print(row, flush=True)
            pandas.concat([kept, pandas.DataFrame(rows)]).to_csv(file, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
