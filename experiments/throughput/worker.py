"""One measurement in a process of its own, printed as a line of JSON. `bench.py` calls this.

    python experiments/throughput/worker.py SYSTEM --model FOLDER --text FILE --length N --seconds S
    python experiments/throughput/worker.py limit

SYSTEM is a peer (`trainer`, `classify` with its defaults, or with `--batch` its other settings; `encode`) or the matrix
product (`limit`). What poolwise itself does is measured by its own program and read from its records.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas
import torch
from datasets import Dataset
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import DevBatches, SortedBatches
from poolwise.data.tokens import tokenise
from poolwise.machine import BF16_PAYS_FROM, bf16_gain, prepare
from poolwise.runs import peak_memory_mib
from poolwise.settings import Masking

LEAST_STEPS = 10
DEV_BATCH = 64


class Clock(TrainerCallback):
    """Stops training after so many seconds, and `LEAST_STEPS` steps at least; all steps count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = 0.0
        self.ends: list[float] = []

    def on_train_begin(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin."""
        self.begun = time.perf_counter()

    def on_step_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())
        if len(self.ends) >= LEAST_STEPS and self.ends[-1] - self.begun > self.seconds:
            control.should_training_stop = True


class Counted:
    """A collator that notes how many real tokens each batch has."""

    def __init__(self, collator: Callable[[Any], Any]) -> None:
        self.collator = collator
        self.tokens: list[int] = []

    def __call__(self, rows: Any) -> Any:
        """The batch, counted."""
        batch = self.collator(rows)
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch


def peer(
    system: str,
    model_folder: str,
    file: Path,
    length: int,
    seconds: float,
    batch: int | None,
    steps: int | None,
    dev: Path | None,
) -> dict[str, float]:
    """transformers.Trainer: by its defaults, or in batches of like length and in bf16; for so many seconds, or steps.

    With `dev`, the MLM loss on these texts at the end, masked as poolwise masks dev.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    rows = pandas.read_csv(file, sep="\t", quoting=3)
    classify = system.startswith("classify")
    columns = {"text": list(rows["text"])} | ({"labels": list(rows["label"])} if classify else {})
    data = Dataset.from_dict(columns).map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=length),
        batched=True,
        remove_columns=["text"],
    )
    if classify:
        model = AutoModelForSequenceClassification.from_pretrained(model_folder)
        collator = Counted(DataCollatorWithPadding(tokenizer))
    else:
        model = AutoModelForMaskedLM.from_pretrained(model_folder)
        collator = Counted(DataCollatorForLanguageModeling(tokenizer))
    best: dict[str, Any] = {
        "per_device_train_batch_size": batch,
        "train_sampling_strategy": "group_by_length",
        "bf16": bf16_gain(device()) >= BF16_PAYS_FROM,
    }
    arguments = TrainingArguments(
        output_dir=str(Path(TemporaryDirectory().name)),
        report_to="none",
        save_strategy="no",
        num_train_epochs=1000,
        max_steps=-1 if steps is None else steps,
        use_cpu=device() == "cpu",
        disable_tqdm=True,
        logging_strategy="no",
        **({} if batch is None else best),
    )
    clock = Clock(seconds if steps is None else float("inf"))
    Trainer(model, arguments, data_collator=collator, train_dataset=data, callbacks=[clock]).train()
    done = len(clock.ends)
    found = {
        "tokens": sum(collator.tokens[:done]),
        "seconds": clock.ends[-1] - clock.begun,
        "steps": done,
    }
    return found if dev is None else found | {"dev_loss": dev_loss(model.eval(), tokenizer, dev, length)}


@torch.inference_mode()
def dev_loss(model: Any, tokenizer: Any, file: Path, length: int) -> float:
    """Mean cross entropy in nats over the positions that poolwise masks in dev."""
    rows = Dataset.from_dict({"text": list(pandas.read_csv(file, sep="\t", quoting=3)["text"])})
    with TemporaryDirectory() as cache:
        texts = tokenise(rows, tokenizer, length, Path(cache))
        batches = DevBatches(texts, tokenizer, Masking(0.15, 0.8, 0.1, "token", None), BatchNeeds())
        total, count = 0.0, 0
        for requests in SortedBatches(texts.lengths, DEV_BATCH):
            batch = batches[requests]
            given = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")}
            masked = len(batch["masked_positions"])
            total, count = total + float(model(**given).loss) * masked, count + masked
    return total / count


def encode(model_folder: str, file: Path, length: int) -> dict[str, float]:
    """sentence-transformers: the mean vector of each text, by its defaults."""
    from sentence_transformers import SentenceTransformer, models

    body = models.Transformer(model_folder, max_seq_length=length)
    encoder = SentenceTransformer(modules=[body, models.Pooling(body.get_word_embedding_dimension(), "mean")])
    texts = list(pandas.read_csv(file, sep="\t", quoting=3)["text"])
    encoder.encode(texts[:64])
    started = time.perf_counter()
    encoder.encode(texts)
    return {"seconds": time.perf_counter() - started}


def limit(seconds: float = 3.0) -> dict[str, float]:
    """The highest rate of matrix products of this machine, in FLOP a second, and whether bf16 gives it."""
    half = bf16_gain(device()) >= BF16_PAYS_FROM
    size = 8192 if device() == "cuda" else 2048
    matrix = torch.ones(size, size, dtype=torch.bfloat16 if half else torch.float32, device=device())
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        product = matrix @ matrix
        if device() == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - before)
        del product
    return {"flops_per_second": 2 * size**3 / best, "bf16": float(half), "bf16_gain": bf16_gain(device())}


def device() -> str:
    """Where to compute."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system")
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--length", type=int)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--batch", type=int, help="texts; with it the peer's other settings too")
    parser.add_argument("--prepared", action="store_true", help="with poolwise's settings of the allocator")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--dev", type=Path)
    given = parser.parse_args()
    if given.prepared:
        prepare()
    if given.system == "limit":
        found = limit()
    elif given.system == "encode":
        found = encode(given.model, given.text, given.length)
    else:
        how = (given.seconds, given.batch, given.steps, given.dev)
        found = peer(given.system, given.model, given.text, given.length, *how)
    peaks = peak_memory_mib()
    found["peak_mib"] = peaks.get("gpu", peaks["resident"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
