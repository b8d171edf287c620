"""How time, memory and disk grow with processes, texts and jobs; each part writes `PART.csv` beside this file.

    python experiments/scale/measure.py ../shared/data FOLDER training launchers corpus jobs

`FOLDER` holds what is made on the way. Nothing else should run beside `training` and `launchers`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROUNDS = 3
STEPS = {"tiny": 150, "minilm": 12}
BATCH = 64
CORPUS_COPIES = (1, 4, 16)
"""Times that the 20 MB of reviews are read; each copy's texts are made different."""
JOBS = 1000

Row = dict[str, Any]


def run(command: list[object], threads: int = 1) -> tuple[float, int]:
    """Wall seconds of a command, and the largest resident memory of it and what it started, in MiB."""
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    began = time.perf_counter()
    done = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=os.environ | limits, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.stdout is not None
    told = done.stdout.read().decode()
    _, status, usage = os.wait4(done.pid, 0)
    if status:
        raise SystemExit(f"{command}: {told[-3000:]}")
    return time.perf_counter() - began, usage.ru_maxrss // 1024


def settings(data: Path, runs: Path, cache: Path, *further: str) -> list[str]:
    """What every run on film sentences is given."""
    files = (f"data.{split}={data}/mr/{split}.tsv" for split in ("train", "dev", "test"))
    places = (f"runs_dir={runs}", f"cache_dir={cache}", "logger=csv", "trainer.accelerator=cpu")
    return ["data=files", "data.name=mr", "data.max_length=64", *files, *places, *further]


def training(data: Path, folder: Path) -> Iterator[Row]:
    """Tokens a second of stage 1: the same batch in one and two processes (strong), and one twice as large (weak)."""
    ways = {"1 process": (1, 1, BATCH), "1 process, 2 threads": (1, 2, BATCH), "2 processes": (2, 1, BATCH)}
    ways["2 processes, twice the batch"] = (2, 1, 2 * BATCH)
    for model, steps in STEPS.items():
        for number in range(ROUNDS):
            turned = [*ways.items()][number:] + [*ways.items()][:number]
            for way, (processes, threads, batch) in turned:
                runs = folder / "runs"
                shutil.rmtree(runs, ignore_errors=True)
                given = [f"model={model}", f"budget={steps}steps", f"pretraining.batch_size={batch}"]
                words = ["train.py", "stage=mlm", *settings(data, runs, folder / "cache", *given)]
                many = ["-m", "torch.distributed.run", "--nproc-per-node", processes] if processes > 1 else []
                wall, _ = run([sys.executable, *many, *words, *(["trainer=ddp"] if many else [])], threads)
                (file,) = runs.glob("mlm/*/record.json")
                record = json.loads(file.read_text(encoding="utf-8"))
                rate = record["tokens"] / record["training_seconds"]
                yield {
                    **{"model": model, "round": number, "way": way, "tokens_per_second": round(rate)},
                    **{"training_seconds": record["training_seconds"], "wall_seconds": round(wall, 2)},
                }


def launchers(data: Path, folder: Path) -> Iterator[Row]:
    """Wall seconds of sweeps of eight and of 24 fine-tunings: a start, and so much a job. submitit starts all at once,
    so that it is given eight."""
    joblib, submitit = "hydra/launcher=joblib", "hydra/launcher=submitit_local"
    ways = {
        "in one process": ([], (2, 6)),
        "joblib, 2 processes": ([joblib, "hydra.launcher.n_jobs=2"], (2, 6)),
        "submitit_local, all at once": ([submitit, "hydra.launcher.cpus_per_task=1"], (2,)),
    }
    for way, (by, counts) in ways.items():
        for count in counts:
            runs = folder / "runs"
            shutil.rmtree(runs, ignore_errors=True)
            given = ["model=tiny", "stage=sentiment", "encoder=base", "protocol.epochs=1", "repr=cls,pooler,mean,max"]
            seeds = f"seed={','.join(map(str, range(1, count + 1)))}"
            words = ["train.py", *settings(data, runs, folder / "cache", *given), seeds, *by, "-m"]
            wall, _ = run([sys.executable, *words])
            yield {"way": way, "jobs": 4 * count, "wall_seconds": round(wall, 2)}


def corpus(data: Path, folder: Path) -> Iterator[Row]:
    """Seconds, memory and disk until the first step of stage 1 on more and more text, by each way to read it."""
    lines = (data / "imdb/unlabelled.txt").read_text(encoding="utf-8").splitlines()
    for copies in CORPUS_COPIES:
        file, cache = folder / "corpus.txt", folder / "corpus_cache"
        shutil.rmtree(cache, ignore_errors=True)
        with file.open("w", encoding="utf-8") as stream:
            for copy in range(copies):
                stream.writelines(f"{line} {copy}\n" for line in lines)
        for way in ("anew", "from the cache", "streamed"):
            runs = folder / "runs"
            shutil.rmtree(runs, ignore_errors=True)
            text = [f"data.text={file}", "model=tiny", "data.max_length=256", "budget=1steps", "logger=csv"]
            text += ["data.streaming=true", "pretraining.budget=1steps"] if way == "streamed" else []
            words = ["stage=mlm", "data=files", *text, f"runs_dir={runs}", f"cache_dir={cache}"]
            wall, memory = run([sys.executable, "train.py", *words, "trainer.accelerator=cpu"])
            yield {
                **{"megabytes": round(file.stat().st_size / 1e6, 1), "texts": copies * len(lines), "way": way},
                **{"wall_seconds": round(wall, 1), "peak_mib": memory},
                "cache_megabytes": round(sum(each.stat().st_size for each in cache.rglob("*.*")) / 1e6, 1),
            }
        file.unlink()


def jobs(data: Path, folder: Path) -> Iterator[Row]:
    """A sweep of many jobs: its seconds, those of a second call that finds all done, those of the report, and disk.

    Of fine-tunings ten, for the seconds and the bytes of one.
    """
    runs = folder / "many_runs"
    shutil.rmtree(runs, ignore_errors=True)
    given = ["model=minilm", "stage=sentiment", "encoder=base", "protocol=probe", "repr=cls,pooler,mean,max", "seed=1"]
    draws = f"label_seed={','.join(map(str, range(1, JOBS // 4 + 1)))}"
    words = ["train.py", *settings(data, runs, folder / "cache", *given), "labels_per_class=8", draws, "-m"]
    report = ["-m", "poolwise.report", "--runs", runs]
    for what, command in {"sweep": words, "the same again": words, "report": report}.items():
        wall, memory = run([sys.executable, *command])
        yield {"what": what, "jobs": JOBS, "wall_seconds": round(wall, 1), "peak_mib": memory}
    yield disk(runs)
    for kept in ("true", "false"):
        shutil.rmtree(runs, ignore_errors=True)
        given = ["model=minilm", "stage=sentiment", "encoder=base", "labels_per_class=8", "protocol.epochs=1"]
        given += ["protocol.least_steps=0"]
        words = ["train.py", *settings(data, runs, folder / "cache", *given), f"seed={','.join(map(str, range(10)))}"]
        wall, memory = run([sys.executable, *words, f"keep_model={kept}", "-m"])
        yield {
            "what": f"fine-tunings, keep_model={kept}",
            "jobs": 10,
            "wall_seconds": round(wall, 1),
            "peak_mib": memory,
        }
        yield disk(runs)


def disk(runs: Path) -> Row:
    """How much the runs take."""
    files = [each for each in runs.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    return {"what": f"{len(files)} files, {size / 1e6:.1f} MB", "jobs": len(list(runs.glob("sentiment/*/record.json")))}


def main() -> None:
    """Measure the parts that are named."""
    data, folder = (Path(each).resolve() for each in sys.argv[1:3])
    folder.mkdir(parents=True, exist_ok=True)
    for part in sys.argv[3:]:
        rows: list[Row] = []
        for row in {"training": training, "launchers": launchers, "corpus": corpus, "jobs": jobs}[part](data, folder):
            print(row, flush=True)
            rows.append(row)
            pandas.DataFrame(rows).to_csv(HERE / f"{part}.csv", index=False)


if __name__ == "__main__":
    main()
