"""Train and probe every condition with the fresh seeds; what is done already is left alone.

    python experiments/pooler_objectives/grid.py FOLDER ENCODER:DATA[:CONDITION,...] ...

`FOLDER` holds `data/` (prepare.py), `neutral_bert/` and what is written: `results/ENCODER-DATA-CONDITION-SEED.json` and
`.npz`. Most runs' weights are deleted once they are probed. Run it twice with different parts to use two cores.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SEEDS = (11, 12, 13)
FRESH = 5
HERE = Path(__file__).parent

ENCODERS = {
    "minilm": ["model=minilm"],
    "neutral": ["model={folder}/neutral_bert", "model.name=neutral", "model.mlm_learning_rate=5e-4"],
}
PREFIXES = {"mr": "../shared/data/mr/", "imdb": "{folder}/data/imdb_", "demo": "{folder}/data/demo_"}
EPOCHS = {"mr": 3, "imdb": 1, "demo": 1}
BATCH_SIZES = {"mr": 64, "imdb": 32, "demo": 64}
MAX_LENGTH = 64
EQUAL_TIME_STEPS = {"mr": 318, "imdb": 137}
"""What plain MLM does in the time of `combined`: 1.092 times the 291 and 125 steps, the larger cost ratio found.

Steps and not seconds, because the machine is shared: three equal runs took 594 to 703 s.
"""

POOLER_ONLY = ["trainable=pooler"]
CONDITIONS: dict[str, list[str]] = {
    "unadapted": ["control=fresh_poolers"],
    "none": ["control=equal_steps"],
    "none_batch16": ["objective=none", "pretraining.batch_size=16"],
    "halves_bow": ["objective=combined"],
    "equal_time": ["objective=none", "budget={equal_time_steps}steps"],
    "bow": ["objective=bow", "objective.weight=10"],
    "halves": ["objective=halves"],
    "views": ["objective=views"],
    "decoder": ["objective=decoder"],
    "simcse": ["objective=simcse"],
    "sop": ["objective=sop"],
    "nsp": ["objective=nsp"],
    "rating": ["objective=rating"],
}
CURED = "cured"
"""Training of the pooler alone on the encoder that the run of `none` with the same seed left."""
CONDITIONS[CURED] = ["objective=combined", *POOLER_ONLY]
KEPT = ("none", "halves_bow", "unadapted")
"""Whose weights stay, for the comparison of stage 2."""
KEPT_OF_RECORD = ("steps", "tokens", "training_seconds", "metrics", "git_commit", "numerics_version", "versions")
PAIRS = ("sop", "nsp")
SERVE_POOLER_ALONE = ("halves_bow", "bow", "halves", "decoder", "rating")
CONDITIONS |= {f"{name}_pooler_only": [*CONDITIONS[name], *POOLER_ONLY] for name in SERVE_POOLER_ALONE}


@dataclass(frozen=True)
class Run:
    """One stage-1 run."""

    encoder: str
    data: str
    condition: str
    seed: int

    @property
    def name(self) -> str:
        """What its folder and results are called."""
        return f"{self.encoder}-{self.data}-{self.condition}-{self.seed}"


def conditions_of(data: str) -> list[str]:
    """The conditions that apply: pairs of segments need several sentences, ratings need stars."""
    if data == "demo":
        return ["none", "halves_bow", "rating", "rating_pooler_only"]
    return [name for name in CONDITIONS if not name.startswith("rating") and (data == "imdb" or name not in PAIRS)]


def encoder_of(run: Run, folder: Path) -> list[str]:
    """How train.py is told which encoder to train."""
    if run.condition != CURED:
        return ENCODERS[run.encoder]
    (export,) = (folder / "runs" / Run(run.encoder, run.data, "none", run.seed).name).glob("mlm/*/export")
    return [f"model={export}", f"model.name={run.encoder}"]


def train_command(run: Run, folder: Path) -> list[str]:
    """The command that trains it."""
    prefix = PREFIXES[run.data].format(folder=folder)
    known = {"folder": folder, "equal_time_steps": EQUAL_TIME_STEPS.get(run.data)}
    parts = [*encoder_of(run, folder), *CONDITIONS[run.condition]]
    rating = ["data.rating_column=stars"] if run.data == "demo" else []
    batch = [] if run.condition == "none_batch16" else [f"pretraining.batch_size={BATCH_SIZES[run.data]}"]
    return [
        *(sys.executable, "train.py", "stage=mlm", "data=files", f"data.name={run.data}", f"seed={run.seed}"),
        *(f"data.{split}={prefix}{split}.tsv" for split in ("train", "dev", "test")),
        *(f"data.max_length={MAX_LENGTH}", "logger=csv"),
        *([] if run.condition == "equal_time" else [f"pretraining.epochs={EPOCHS[run.data]}"]),
        *("pretraining.pooler_learning_rate=1e-3", f"runs_dir={folder}/runs/{run.name}"),
        *(part.format(**known) for part in [*parts, *rating, *batch]),
    ]


def carry_out(run: Run, folder: Path) -> None:
    """Train, probe, write the result."""
    result, log = folder / "results" / f"{run.name}.json", folder / "logs" / f"{run.name}.txt"
    if result.exists():
        return
    result.parent.mkdir(exist_ok=True)
    log.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder / "runs" / run.name, ignore_errors=True)
    fresh = FRESH if run.condition in ("none", "none_batch16", "equal_time", "unadapted") else 0
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(train_command(run, folder), stdout=file, stderr=file, check=True)
        (trained,) = (folder / "runs" / run.name / "mlm").glob("*")
        export, probed = trained / "export", result.with_suffix(".probed.json")
        prefix = PREFIXES[run.data].format(folder=folder)
        subprocess.run(
            [
                *(sys.executable, HERE / "probe.py", prefix, probed, export),
                *("--test", "--fresh", str(fresh), "--max-length", str(MAX_LENGTH)),
            ],
            stdout=file,
            stderr=file,
            check=True,
        )
    record = json.loads((trained / "record.json").read_text(encoding="utf-8"))
    found = {
        "run": vars(run),
        "probes": json.loads(probed.read_text(encoding="utf-8")),
        "provenance": json.loads((export / "provenance.json").read_text(encoding="utf-8")),
        "record": {name: record.get(name) for name in KEPT_OF_RECORD},
    }
    probed.with_suffix(".npz").rename(result.with_suffix(".npz"))
    probed.unlink()
    result.write_text(json.dumps(found), encoding="utf-8")
    if run.condition not in KEPT:
        (export / "model.safetensors").unlink()


def main() -> None:
    """Carry out each part, a seed of every condition after the other."""
    folder = Path(sys.argv[1])
    for part in sys.argv[2:]:
        encoder, data, *chosen = part.split(":")
        names = chosen[0].split(",") if chosen else conditions_of(data)
        for name in names:
            for seed in SEEDS[:1] if name == "unadapted" else SEEDS:
                run = Run(encoder, data, name, seed)
                try:
                    carry_out(run, folder)
                except subprocess.CalledProcessError:
                    print("failed:", run.name, flush=True)
                else:
                    print("done:", run.name, flush=True)


if __name__ == "__main__":
    main()
