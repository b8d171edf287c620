"""What a control needs to know before it starts: how long another run trained, what a checkpoint's pooler is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from poolwise.encoder import never_trained
from poolwise.runs import read_record
from poolwise.settings import TRAINER_LENGTHS, Budget, UserError

SAME_FOR_EQUAL_TIME = {
    "text": "data",
    "weights": "model",
    "tokenizer": "tokenizer",
    "max_length": "data.max_length",
    "long_texts": "data.long_texts",
    "window_overlap": "data.window_overlap",
    "platform": "trainer settings",
}
"""What a control shares with the run that it is held against: parts of the key's material, and who sets them."""
MAY_DIFFER = ("epochs", "budget", "pooler_init", "pooler_learning_rate")
"""Settings of pretraining that may be others: the length, and what MLM alone has no use for."""


def time_of(run: Path, material: Mapping[str, Any]) -> Budget:
    """The seconds that a stage-1 run trained, as the budget of one with this material.

    Raises:
        UserError: there is no such run, it is not finished or trained nothing, or it had other data, model, trainer or
            pretraining.
    """
    record = read_record(run)
    if record is None or record.get("stage") != "mlm":
        raise UserError(f"control.run={run}: holds no record of a stage-1 run; give a folder such as runs/mlm/NAME-KEY")
    if record["status"] != "finished":
        raise UserError(f"control.run={run}: this run is {record['status']}; allowed: a finished one")
    if not record.get("training_seconds"):
        raise UserError(f"control.run={run}: its record has no training_seconds; allowed: a run that trained")
    mine, theirs = _without_lengths(material), _without_lengths(record["material"])
    other = [name for part, name in SAME_FOR_EQUAL_TIME.items() if mine.get(part) != theirs.get(part)]
    other += [
        f"pretraining.{key} ({theirs['pretraining'].get(key)} there, {value} here)"
        for key, value in mine["pretraining"].items()
        if key not in MAY_DIFFER and theirs["pretraining"].get(key) != value
    ]
    if other:
        raise UserError(f"control.run={run}: was run with other {', '.join(other)}; allowed: a run with the same")
    return Budget(float(record["training_seconds"]), "seconds")


def _without_lengths(material: Mapping[str, Any]) -> dict[str, Any]:
    platform = {key: value for key, value in material["platform"].items() if key not in TRAINER_LENGTHS}
    return {**material, "platform": platform}


def check_own_pooler(weights: Path) -> None:
    """See that a safetensors file holds a pooler that was trained.

    Raises:
        UserError: it has none, or one that is as initialisation leaves it.
    """
    with safe_open(weights, framework="pt") as tensors:
        biases = [key for key in tensors.keys() if key.endswith("pooler.dense.bias")]  # noqa: SIM118
        if biases:
            names = biases[0].removesuffix("bias") + "weight", biases[0]
            if not never_trained(*(tensors.get_tensor(name).float() for name in names)):
                return
    lack = "its pooler is as initialisation leaves it, so it was never trained" if biases else "it has no pooler"
    raise UserError(
        f"control=own_pooler: {weights.parent} has no pooler of its own: {lack}; allowed: a checkpoint with a trained "
        "pooler, or control=fresh_poolers"
    )
