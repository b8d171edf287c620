"""The runs of this experiment, by train.py; what is finished is left out.

    python experiments/which_representation/run.py FOLDER ENCODER:DATA:PART ...

`FOLDER` holds `data/` and `neutral_bert/` of `experiments/pooler_objectives`; the runs go to `FOLDER/which`. ENCODER is
minilm or neutral, DATA is mr or imdb, PART is one of `PARTS`, `stage1` the first of them. Run it twice with different
parts, each with `taskset -c CORE` before it, to use two cores.
"""

import subprocess
import sys
from pathlib import Path

MODELS = {
    "minilm": ["model=minilm"],
    "neutral": ["model={folder}/neutral_bert", "model.name=neutral", "model.mlm_learning_rate=5e-4"],
}
PREFIXES = {"mr": "../shared/data/mr/", "imdb": "{folder}/data/imdb_"}
EPOCHS = {"mr": 3, "imdb": 1}
"""Of stage 1."""
FOUR = "repr=cls,pooler,mean,cls_linear"
LABELS = "labels_per_class=8,32,128,512,all"
FINETUNE = ["protocol=finetune", "protocol.optimisation.learning_rate=1e-4,3e-4", FOUR]
PARTS: dict[str, list[list[str]]] = {
    "stage1": [],
    "probe": [
        ["protocol=probe", "repr=cls,pooler,mean", "labels_per_class=8,32,128,512", "label_seed=1,2,3,4,5"],
        ["protocol=probe", "repr=cls,pooler,mean"],
    ],
    "frozen": [["protocol=frozen_rates", "protocol.batch_size=128", FOUR, LABELS]],
    **{f"finetune_{labels}": [[*FINETUNE, f"labels_per_class={labels}"]] for labels in (8, 32, 128, 512, "all")},
}
"""The sweeps of each part."""


def commands(encoder: str, data: str, part: str, folder: Path) -> list[list[str]]:
    """The sweeps of a part: on the unadapted encoder and, a stage-2 seed for each stage-1 run, on the adapted ones."""
    texts = ["data=files", f"data.name={data}", "data.max_length=64"]
    texts += [f"data.{split}={PREFIXES[data]}{split}.tsv" for split in ("train", "dev", "test")]
    common = [*texts, *MODELS[encoder], "seed=1,2,3", "runs_dir={folder}/which", "cache_dir={folder}/cache"]
    epochs = EPOCHS[data]
    if part == "stage1":
        sweeps = [["stage=mlm", "objective=none,combined", f"pretraining.epochs={epochs}"]]
    else:
        adapted = ["objective@stage1.objective=none,combined", f"stage1.epochs={epochs}", "stage1.seed=${{seed}}"]
        sweeps = [
            ["stage=sentiment", *chosen, *sweep, "keep_model=false"]
            for sweep in PARTS[part]
            for chosen in (["encoder=base"], adapted)
        ]
    return [[word.format(folder=folder) for word in [*common, *sweep, "logger=csv", "-m"]] for sweep in sweeps]


def main() -> None:
    """Carry out each part."""
    folder = Path(sys.argv[1])
    for named in sys.argv[2:]:
        for command in commands(*named.split(":"), folder):
            done = subprocess.run([sys.executable, "train.py", *command], stdout=subprocess.DEVNULL, check=False)
            print(named, "done" if done.returncode == 0 else "failed", *command, flush=True)


if __name__ == "__main__":
    main()
