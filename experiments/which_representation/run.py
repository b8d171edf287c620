"""The stage-2 runs of this experiment, by train.py; what is finished is skipped.

    python experiments/which_representation/run.py FOLDER ENCODER:DATA:PART ...

`FOLDER` is that of `experiments/pooler_objectives` (its data, the neutral encoder and the kept stage-1 runs); the runs
go to `FOLDER/which`. ENCODER is minilm or neutral, DATA is mr or imdb, PART is one of `PARTS`.
"""

import subprocess
import sys
from pathlib import Path

STAGE1_SEEDS = (11, 12, 13)
STAGE1 = ("none", "halves_bow")
PREFIXES = {"mr": "../shared/data/mr/", "imdb": "{folder}/data/imdb_"}
FOUR = "repr=cls,pooler,mean,cls_linear"
DRAWS = ["labels_per_class=8,32,128", "label_seed=1,2,3,4,5", "seed=1"]
FINETUNE = ["protocol=finetune", FOUR, "protocol.optimisation.learning_rate=5e-5,2e-4"]
FROZEN = ["protocol=frozen", "protocol.batch_size=128", "protocol.optimisation.learning_rate=1e-3,4e-3,1.6e-2"]
PARTS: dict[str, list[list[str]]] = {
    "probe": [
        ["protocol=probe", "repr=cls,pooler,mean", *DRAWS],
        ["protocol=probe", "repr=cls,pooler,mean", "seed=1"],
    ],
    "frozen": [[*FROZEN, FOUR, "protocol.dense=trained"]],
    "frozen_fixed": [[*FROZEN, "repr=cls,pooler,cls_linear", "protocol.dense=fixed"]],
    "finetune_128": [[*FINETUNE, "labels_per_class=128", "protocol.epochs=5", "protocol.least_steps=0"]],
    "finetune_all": [[*FINETUNE, "protocol.epochs=2"]],
}
"""The settings of the sweeps of each part."""
UNADAPTED_SEEDS = "seed=1,2,3"
"""An unadapted encoder has as many runs as there are stage-1 runs of the others, where anything is drawn in them; the
others have one each, so that head, order and labels are drawn anew with the stage-1 run."""


def encoders(encoder: str, data: str, folder: Path) -> list[list[str]]:
    """How train.py is told which encoder to read: unadapted, and each stage-1 run with a stage-2 seed of its own."""
    model = ["model=minilm"] if encoder == "minilm" else [f"model={folder}/neutral_bert", "model.name=neutral"]
    exports = [
        (export, seed - STAGE1_SEEDS[0] + 1)
        for condition in STAGE1
        for seed in STAGE1_SEEDS
        for export in sorted((folder / "runs" / f"{encoder}-{data}-{condition}-{seed}").glob("mlm/*/export"))
    ]
    return [["encoder=base", *model], *([f"encoder={export}", f"seed={seed}"] for export, seed in exports)]


def command(chosen: list[str], data: str, sweep: list[str], folder: Path) -> list[str]:
    """One sweep on one encoder."""
    prefix = PREFIXES[data].format(folder=folder)
    if not any(word.startswith("seed=") for word in [*chosen, *sweep]):
        chosen = [*chosen, UNADAPTED_SEEDS]
    seeds = [word for word in sweep if word.startswith("seed=")]
    return [
        *(sys.executable, "train.py", "stage=sentiment", "data=files", f"data.name={data}", "data.max_length=64"),
        *(f"data.{split}={prefix}{split}.tsv" for split in ("train", "dev", "test")),
        *(word for word in chosen if not (seeds and word.startswith("seed="))),
        *sweep,
        *(f"runs_dir={folder}/which", f"cache_dir={folder}/cache", "logger=csv", "keep_model=false", "-m"),
    ]


def main() -> None:
    """Carry out each part, an encoder after the other."""
    folder = Path(sys.argv[1])
    for part in sys.argv[2:]:
        encoder, data, name = part.split(":")
        for chosen in encoders(encoder, data, folder):
            for sweep in PARTS[name]:
                done = subprocess.run(command(chosen, data, sweep, folder), stdout=subprocess.DEVNULL, check=False)
                print(part, chosen[0], "done" if done.returncode == 0 else "failed", flush=True)


if __name__ == "__main__":
    main()
