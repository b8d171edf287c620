"""One measurement in a process of its own, printed as a line of JSON. `bench.py` calls this.

    python experiments/throughput/worker.py SYSTEM --model FOLDER --text FILE --length N --seconds S

SYSTEM is a peer (`trainer`, `classify` with its defaults, or with `--batch` its other settings; `encode`), what
poolwise's library does beside it (`encode-poolwise`). How poolwise trains is measured by its own program and read from
its records.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import DevBatches, SortedBatches
from poolwise.data.tokens import tokenise
from poolwise.machine import prepare
from poolwise.runs import peak_memory_mib
from poolwise.settings import Masking

DEV_BATCH = 64
LOADERS = 4
"""Processes that make the peer's batches while a GPU computes; on a CPU they would take its cores."""


class Clock(TrainerCallback):
    """Stops training after so many seconds, and so many steps at least; all steps count.

    As that of poolwise it begins when loaders have: on a GPU that takes seconds.
    """

    def __init__(self, seconds: float, least_steps: int) -> None:
        self.limit, self.least_steps = seconds, least_steps
        self.begun = self.seconds = 0.0
        self.steps = 0

    def on_step_begin(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the first step."""
        if not self.begun:
            synchronise()
            self.begun = time.perf_counter()

    def on_step_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See whether it is time; a GPU is not waited for."""
        self.steps += 1
        if self.steps >= self.least_steps and time.perf_counter() - self.begun > self.limit:
            control.should_training_stop = True

    def on_train_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        synchronise()
        self.seconds = time.perf_counter() - self.begun


class CountingTrainer(Trainer):
    """Trainer, which counts real tokens."""

    tokens: Any = 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """A step, counted where its batch lies."""
        self.tokens = self.tokens + inputs["attention_mask"].sum()
        return super().training_step(model, inputs, num_items_in_batch)


class BatchesInRandomOrder(Sampler[int]):
    """The examples of another sampler, whose batches are kept and come in random order; a smaller last one stays last.

    `group_by_length` sorts each 50 batches by length, the longest texts first, so that a few steps from the start of
    training would measure the longest batches alone.
    """

    def __init__(self, examples: Sampler[int], batch: int) -> None:
        self.examples, self.batch = examples, batch

    def __len__(self) -> int:
        return len(self.examples)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        order = list(self.examples)
        whole = len(order) // self.batch
        for number in torch.randperm(whole).tolist():
            yield from order[number * self.batch : (number + 1) * self.batch]
        yield from order[whole * self.batch :]


class GroupedTrainer(CountingTrainer):
    """Trainer with its own batches of like length, in random order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        grouped = super()._get_train_sampler(train_dataset)
        return BatchesInRandomOrder(grouped, self.args.train_batch_size)


def peer(given: argparse.Namespace) -> dict[str, float]:
    """transformers.Trainer: by its defaults, or in batches of like length and in bf16; for so many seconds, or steps.

    With `dev`, the MLM loss on these texts at the end, masked as poolwise masks dev.
    """
    set_seed(given.seed)  # before the model, whose head may be drawn
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    rows = pandas.read_csv(given.text, sep="\t", quoting=3)
    classify = given.system == "classify"
    columns = {"text": list(rows["text"])} | ({"labels": list(rows["label"])} if classify else {})
    data = Dataset.from_dict(columns).map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=given.length),
        batched=True,
        remove_columns=["text"],
    )
    if classify:
        model = AutoModelForSequenceClassification.from_pretrained(given.model)
        collator = DataCollatorWithPadding(tokenizer)
    else:
        model = AutoModelForMaskedLM.from_pretrained(given.model)
        collator = DataCollatorForLanguageModeling(tokenizer)
    arguments = TrainingArguments(
        output_dir=str(Path(TemporaryDirectory().name)),
        report_to="none",
        save_strategy="no",
        num_train_epochs=1000,
        max_steps=-1 if given.steps is None else given.steps,
        use_cpu=device() == "cpu",
        disable_tqdm=True,
        logging_strategy="no",
        seed=given.seed,
        **({} if given.batch is None else best_settings(given.batch, bool(given.bf16))),
        **({} if given.rate is None else {"learning_rate": given.rate, "warmup_steps": given.warmup}),
    )
    clock = Clock(given.seconds if given.steps is None else float("inf"), given.least)
    kind = CountingTrainer if given.batch is None else GroupedTrainer
    trainer = kind(model, arguments, data_collator=collator, train_dataset=data, callbacks=[clock])
    trainer.train()
    found = {"tokens": int(trainer.tokens), "seconds": clock.seconds, "steps": clock.steps}
    if given.dev is None:
        return found
    return found | {"dev_loss": dev_loss(model.eval(), tokenizer, given.dev, given.length)}


def best_settings(batch: int, half: bool) -> dict[str, Any]:
    """What the peer is given beside its defaults."""
    return {
        "per_device_train_batch_size": batch,
        "train_sampling_strategy": "group_by_length",
        "bf16": half,
        "dataloader_num_workers": LOADERS if device() == "cuda" else 0,
    }


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


def encode(given: argparse.Namespace) -> dict[str, float]:
    """The mean vector of each text by sentence-transformers, or by poolwise; each in batches of its own choice.

    Seconds from strings to vectors, and the real tokens of these texts.
    """
    texts = list(pandas.read_csv(given.text, sep="\t", quoting=3)["text"])[: given.texts]
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    tokens = sum(map(len, tokenizer(texts, truncation=True, max_length=given.length).input_ids))
    make = of_sentence_transformers if given.system == "encode" else of_poolwise
    encoder = make(given.model, given.length)
    encoder(texts[:64])
    synchronise()
    started = time.perf_counter()
    encoder(texts)
    synchronise()
    return {"tokens": tokens, "seconds": time.perf_counter() - started}


def of_sentence_transformers(model_folder: str, length: int) -> Callable[[list[str]], Any]:
    """Its encoding with the mean over tokens, by its defaults."""
    from sentence_transformers import SentenceTransformer, models

    body = models.Transformer(model_folder, max_seq_length=length)
    return SentenceTransformer(modules=[body, models.Pooling(body.get_embedding_dimension(), "mean")]).encode


def of_poolwise(model_folder: str, length: int) -> Callable[[list[str]], Any]:
    """The encoding of `poolwise.load(run)`, of a run on the mean over tokens that left this encoder as it was."""
    from poolwise.encoder import load_encoder
    from poolwise.representations import EncoderShape, build_representation
    from poolwise.stages.sentiment import SentimentClassifier
    from poolwise.trained import Notes, TrainedClassifier

    body, _ = load_encoder(model_folder, pooler_required=False)
    settings = {"name": "mean", "layer": None}
    representation = build_representation(settings, EncoderShape.of(body.config))
    notes = Notes(settings, representation.formula, ["no", "yes"], 1.0, length, {}, model_folder, None)
    classifier = SentimentClassifier(body, representation, 2, dropout=0.0)
    return TrainedClassifier(Path(model_folder), notes, AutoTokenizer.from_pretrained(model_folder), classifier).encode


def limit(half: bool, seconds: float = 2.0) -> float:
    """The rate of matrix products of this machine, in FLOP a second, in bf16 or fp32: the mean over some seconds.

    Of random matrices, into memory that is there already, so that no page has to be fetched for the product.
    """
    size = 8192 if device() == "cuda" else 2048
    dtype = torch.bfloat16 if half else torch.float32
    left, right = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    product = torch.zeros_like(left)
    torch.mm(left, right, out=product)
    synchronise()
    products, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(left, right, out=product)
        synchronise()
        products += 1
    return 2 * size**3 * products / (time.perf_counter() - started)


def synchronise() -> None:
    """Wait for what was given to a GPU."""
    if device() == "cuda":
        torch.cuda.synchronize()


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
    parser.add_argument("--least", type=int, default=10, help="steps, however long they take")
    parser.add_argument("--steps", type=int, help="in place of seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, help="learning rate, in place of the peer's default")
    parser.add_argument("--warmup", type=float, help="share of steps")
    parser.add_argument("--dev", type=Path, help="texts whose MLM loss is measured at the end")
    parser.add_argument("--texts", type=int, help="so many are encoded; all if not given")
    parser.add_argument("--bf16", type=int, default=0, help="1: with --batch in bf16")
    given = parser.parse_args()
    if given.prepared:
        prepare()
    found = encode(given) if given.system.startswith("encode") else peer(given)
    peaks = peak_memory_mib()
    found["peak_mib"] = peaks.get("gpu", peaks["resident"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
