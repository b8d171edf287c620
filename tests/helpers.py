"""Small texts and settings that many tests share."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import lightning
import torch
import yaml
from safetensors.torch import load_file

from poolwise.app import conf_dir, register_schemas, typed_settings
from poolwise.compare.records import METRICS
from poolwise.runs import MODEL_FOLDER, RunIdentity, RunRecord
from poolwise.settings import Masking, MLMSettings, SentimentSettings
from poolwise.trained import ENCODER_FOLDER, WEIGHTS_FILE

REPOSITORY = Path(__file__).parents[1]
TEXTS = [
    "The kettle is not good at all.",
    "A lovely film, although the ending drags.",
    "I would buy this laptop again without a second thought, and so would my brother.",
    "Dull.",
    "Hardly a failure: the songs are lovely and the cast is never dull.",
    "The screen is good but the battery is a failure.",
]
MASKING = Masking(
    mask_probability=0.15, mask_token_share=0.8, random_token_share=0.1, unit="token", final_mask_probability=None
)

CONSTANT = {"weight_schedule": "constant", "schedule_share": 0.5}
BOW = {
    "name": "bow",
    "weight": 2.0,
    **CONSTANT,
    "train_mlm_head": True,
    "idf_weighted": False,
    "largest_document_share": 1.0,
}

SMALL_RUN = (
    "data.text=96 data.text_dev=32 data.train=64 data.dev=32 data.test=40 data.max_length=48 "
    "model.hidden_size=32 model.layers=2 model.attention_heads=2 model.intermediate_size=64 "
    "model.vocabulary_size=400 trainer.accelerator=cpu"
).split()
SMALL_STAGE1 = [*SMALL_RUN, "pretraining.epochs=1", "pretraining.batch_size=32"]
SMALL_STAGE2 = [*SMALL_RUN, "stage1.epochs=1", "stage1.batch_size=32", "protocol.epochs=1"]

EXAMPLES = 200


def settings(*overrides: str) -> MLMSettings | SentimentSettings:
    """The settings that a command line asks for."""
    register_schemas()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed_settings(hydra.compose("train", overrides=list(overrides)), overrides)


def write_run(
    runs: Path,
    name: str,
    seed: int,
    wrong: list[int],
    dev: float,
    status: str = "trained",
    epochs: int = 2,
    objective: str | None = "bow",
    stage1_seed: int | None = 1,
    protocol: str = "finetune",
    labels: int | None = None,
    learning_rate: float = 1e-3,
    examples: int = EXAMPLES,
    **further: Any,
) -> Path:
    """A finished stage-2 run whose test predictions are wrong at the given examples. Its folder.

    Without an objective its encoder is not adapted; `further` goes into the record.
    """
    answers = torch.arange(examples) % 2
    guesses = answers.clone()
    guesses[wrong] = 1 - guesses[wrong]
    flat = {
        "data": "demo",
        "model": "tiny",
        "encoder": "base" if objective is None else "stage1",
        "objective": objective,
        "stage1_seed": None if objective is None else stage1_seed,
        "encoder_condition": f"encoder of {objective}",
        "repr": name,
        "protocol": protocol + (f" on {labels} labels a class" if labels else ""),
        "seed": seed,
        "label_seed": seed,
    }
    material: dict[str, Any] = {
        "representation": name,
        "weights": f"{objective} {flat['stage1_seed']}",
        "protocol": {"name": protocol, "epochs": epochs, "optimisation": {"learning_rate": learning_rate}},
    }
    material |= {} if protocol == "probe" else {"seed": seed}
    material |= {"labels": {"per_class": labels, "label_seed": seed}} if labels else {}
    identity = RunIdentity("sentiment", f"{name}-{seed}", name, material, {}, flat)
    accuracy = 1 - len(wrong) / examples
    metrics = dict.fromkeys(METRICS, accuracy) | {"dev/macro_f1": dev}
    columns = {
        "examples": torch.arange(examples),
        "labels": answers,
        "logits": torch.nn.functional.one_hot(guesses, 2).float(),
    }
    config = {
        "seed": seed,
        "repr": {"name": name},
        "data": {"name": "demo"},
        "protocol": {"name": protocol, "epochs": epochs},
    }
    with RunRecord(identity, identity.folder(runs), config) as record:
        record.results |= {
            "metrics": metrics,
            "pooler_status": status,
            "representation": {"name": name, "formula": f"formula of {name} <b>"},
            "label_names": ["negative", "positive"],
            **further,
        }
        record.write_predictions({"test": columns})
    return record.folder


def kept_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the classifier that a stage-2 run kept: `encoder.*` where it has an encoder of its own."""
    model = folder / MODEL_FOLDER
    weights = load_file(model / WEIGHTS_FILE)
    own = model / ENCODER_FOLDER / "model.safetensors"
    return weights | ({f"encoder.{name}": tensor for name, tensor in load_file(own).items()} if own.exists() else {})


def read_wandb(folder: str) -> dict[str, Any]:
    """An offline W&B run, by W&B's own reader."""
    (file,) = Path(folder).glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return json.loads(found.stdout)


def quiet_trainer(epochs: int, callback: lightning.Callback, **further: Any) -> lightning.Trainer:
    """A trainer that writes nothing, logs each step and tells `callback` what happens."""
    return lightning.Trainer(
        **further,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def objective_settings(name: str, **changes: Any) -> dict[str, Any]:
    """The settings of `conf/objective/NAME.yaml`, with changes."""
    return {**yaml.safe_load((REPOSITORY / f"conf/objective/{name}.yaml").read_text()), **changes}
