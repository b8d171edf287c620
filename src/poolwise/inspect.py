"""`python -m poolwise.inspect FOLDER`: what a checkpoint's pooler is, and whether its output can be relied on."""

import argparse
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from rich.console import Console
from rich.text import Text
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from poolwise.app import quieten
from poolwise.checkpoints import (
    PROVENANCE_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    check_family,
    check_folder,
    fetched,
    provenance_of,
    read_json,
    tensor_shapes,
)
from poolwise.command_line import pooler_command
from poolwise.encoder import check_finite, foreign_status
from poolwise.families import POOLER_KEYS, body_with_pooler, family_of
from poolwise.machine import is_plain_name
from poolwise.representations import REPRESENTATIONS
from poolwise.settings import UserError, leave
from poolwise.words import first_line, some

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
INDEX_FILE = WEIGHTS_FILE + ".index.json"
FIXED_TEXT = 16
"""The fixed text is the vocabulary's first word pieces, so many: it needs no tokenizer, which a folder may lack."""
SHOWN_KEYS = 4

STATUS_IN_WORDS = {
    "missing": "each load draws one at random",
    "never trained": "in the file, but it is as initialisation leaves it",
    "as released": "in the file; what trained it, and on which encoder, cannot be told from the file",
    "trained": "a loss reached it in stage 1",
    "random": "drawn at random in stage 1 and saved; no loss trained it",
    "stale": "the encoder moved under it in stage 1, and in most of these steps no loss trained it",
    "collapsed": "trained in stage 1, but its outputs hardly tell texts apart",
}
LOADING_ERRORS = (
    *(OSError, ValueError, RuntimeError, TypeError, ArithmeticError, LookupError, AttributeError),
    *(SafetensorError, StrictDataclassError),
)
"""What a config or a file that is not right makes the libraries raise."""
COPIED = ("folder", "to train it")
UNTRAINED = ("missing", "never trained", "random")
WORTH_TRAINING = (*UNTRAINED, "stale", "collapsed")


@dataclass(frozen=True)
class Inspection:
    """What is known of a checkpoint.

    Attributes:
        place: as it was asked for: a folder or a hub name.
        folder: where it lies.
        config: its config.
        files: the safetensors files that hold its weights.
        status: of the pooler, a key of `STATUS_IN_WORDS`.
        missing, unexpected: keys, as the family's body with a pooler loads it; heads of tasks are not unexpected.
        heads: keys of heads of tasks.
        difference: the largest one of a unit of `pooler_output` between two loads, on the same text.
        states_difference: the same of `last_hidden_state`.
        provenance: what stage 1 of poolwise noted; empty for a checkpoint of other origin.
    """

    place: str
    folder: Path
    config: PreTrainedConfig
    files: list[Path]
    status: str
    missing: set[str]
    unexpected: set[str]
    heads: set[str]
    difference: float
    states_difference: float
    provenance: dict[str, Any]

    def serves(self, representation: str) -> bool:
        """Whether nothing that a representation needs is random: no key is missing, and no pooler untrained."""
        if REPRESENTATIONS[representation].uses_pooler:
            return not self.missing and self.status not in UNTRAINED
        return self.missing <= POOLER_KEYS


def main() -> None:
    """Print the card; exit with 1 where the representation that is meant needs what is not there, 2 at a mistake.

    A pooler that nothing trained is as good as none.
    """
    parser = argparse.ArgumentParser(prog="python -m poolwise.inspect", description=__doc__)
    parser.add_argument("folder", help="a checkpoint in safetensors, or a hub name such as OWNER/NAME")
    parser.add_argument(
        "--repr",
        choices=sorted(REPRESENTATIONS),
        default="pooler",
        help="the representation you mean to use: exit code 1 if what it needs is missing, or is a pooler that "
        "nothing trained (default: pooler)",
    )
    arguments = parser.parse_args()
    quieten()
    try:
        found = inspect_checkpoint(arguments.folder)
        show(found)
    except UserError as error:
        leave(error)
    raise SystemExit(0 if found.serves(arguments.repr) else 1)


def inspect_checkpoint(place: str | Path) -> Inspection:
    """Read a checkpoint, a folder or a hub name, and load it twice without a seed.

    Raises:
        UserError: there is no such folder, config or safetensors file, it is broken, or the family is not supported.
    """
    folder = Path(place)
    if folder.is_file():
        check_folder(folder)
    if HUB_NAME.fullmatch(str(place)) and not folder.exists():
        folder = fetched(str(place))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = weights_files(folder)
    for file in files:
        tensor_shapes(file)  # raises where it is broken
    (first, info), (second, _) = _load(folder), _load(folder)
    check_finite(first, folder)
    has_pooler = not POOLER_KEYS & set(info["missing_keys"])
    provenance = provenance_of(folder)
    outputs = [_outputs(model) for model in (first, second)]
    beside = set(info["unexpected_keys"])
    heads = {key for key in beside if family_of(first.config).is_unread(key)}
    return Inspection(
        place=str(place),
        folder=folder,
        config=first.config,
        files=files,
        status=_status(first, has_pooler, provenance),
        missing=set(info["missing_keys"]),
        unexpected=beside - heads,
        heads=heads,
        difference=float((outputs[0].pooler_output - outputs[1].pooler_output).abs().max()),
        states_difference=float((outputs[0].last_hidden_state - outputs[1].last_hidden_state).abs().max()),
        provenance=provenance,
    )


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the pieces that its index names.

    Raises:
        UserError: there is none, a piece is missing, or the family is not supported.
    """
    if (folder / WEIGHTS_FILE).is_file() or not (folder / INDEX_FILE).is_file():
        check_folder(folder)
        check_family(str(folder))
        return [folder / WEIGHTS_FILE]
    check_family(str(folder))
    weight_map = read_json(folder / INDEX_FILE).get("weight_map", {})
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if leading_away := [name for name in names if not is_plain_name(name)]:
        raise UserError(f"{folder / INDEX_FILE} names files outside of its folder: {some(map(str, leading_away))}")
    pieces = sorted(folder / name for name in names)
    lacking = [piece.name for piece in pieces if not piece.is_file()]
    if lacking or not pieces:
        raise UserError(f"{folder / INDEX_FILE} names files that are not there: {', '.join(lacking) or 'none'}")
    return pieces


def _load(folder: Path) -> tuple[Any, dict[str, Any]]:
    try:
        model, info = body_with_pooler(check_family(str(folder))).from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise UserError(f"{folder}: its weights do not fit its config ({first_line(error)})") from error
    return model.eval(), info


def _outputs(model: Any) -> Any:
    positions = family_of(model.config).longest_text(model.config)
    ids = torch.arange(min(FIXED_TEXT, model.config.vocab_size, positions))
    try:
        with torch.inference_mode():
            return model(ids.unsqueeze(0), torch.ones_like(ids).unsqueeze(0))
    except (RuntimeError, LookupError) as error:
        raise UserError(f"{model.name_or_path}: no text can be read with its config ({first_line(error)})") from error


def _status(model: Any, has_pooler: bool, provenance: dict[str, Any]) -> str:
    if not has_pooler:
        return "missing"
    if provenance:
        return str(provenance["pooler_status"])
    return foreign_status(model)


def show(found: Inspection) -> None:
    """Print the card; commands and folders are not broken, so that they can be copied."""
    rows = rows_of(found)
    width = max(map(len, rows)) + 2
    console = Console(highlight=False)
    for name, words in rows.items():
        room = len(words) + 1 if name in COPIED else console.width - width
        for number, line in enumerate(Text(words).wrap(console, room)):
            title = Text(f"{'' if number else name:<{width}}", style="bold")
            console.print(title.append_text(Text(line.plain.rstrip(), style="not bold")), soft_wrap=True)


def rows_of(found: Inspection) -> dict[str, str]:
    """The card: names and what is to be said."""
    config = found.config
    size = f"{config.num_hidden_layers} layers, {config.hidden_size} wide"
    weights = found.files[0].name if len(found.files) == 1 else f"{len(found.files)} files of {INDEX_FILE}"
    rows = {
        "folder": str(found.folder),
        **({"hub name": found.place} if found.place != str(found.folder) else {}),
        "encoder": f"{config.model_type}, {size}, {weights}",
        "pooler": f"{found.status}: {STATUS_IN_WORDS[found.status]}",
        "pooler_output": _in_words(found.difference),
        "hidden states": _in_words(found.states_difference),
        "missing": listed(found.missing),
        "unexpected": listed(found.unexpected),
        "heads": ", ".join(f"{name} ({count} keys)" for name, count in _by_head(found.heads).items()) or "none",
    }
    if not any((found.folder / name).is_file() for name in TOKENIZER_FILES):
        rows["tokenizer"] = "none: neither stage can use this folder"
    family = family_of(config)
    if not family.has_pooler:
        added = f"{family.name} has no pooler of its own; AutoModel will not see the one that stage 1 adds"
        rows["AutoModel"] = added if found.status == "missing" else family.hidden_pooler
    try:
        rows |= _provenance_rows(found.provenance)
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise UserError(f"{found.folder / PROVENANCE_FILE} cannot be read ({first_line(error)})") from error
    if len(found.files) > 1:
        rows["to use it"] = f"the stages read one {WEIGHTS_FILE}: save it with max_shard_size larger than the weights"
    elif found.status in WORTH_TRAINING:
        rows["to train it"] = pooler_command(found.place, ["data=files", "data.text=YOUR_TEXTS"])
    return rows


def _by_head(keys: Collection[str]) -> Counter[str]:
    return Counter(key.split(".")[0] for key in sorted(keys))


def _in_words(difference: float) -> str:
    stable = "the same in two loads" if difference == 0 else "NOT the same in two loads"
    return f"{stable} (largest difference of a unit: {difference:.3g})"


def listed(keys: Collection[str]) -> str:
    """Keys in words: how many, and the first few."""
    if not keys:
        return "none"
    return f"{len(keys)}: {some(sorted(keys), SHOWN_KEYS)}"


def _provenance_rows(provenance: dict[str, Any]) -> dict[str, str]:
    """What stage 1 noted; exports of other versions may hold less."""
    if not provenance:
        return {"provenance": f"no {PROVENANCE_FILE} of poolwise's on these very weights"}
    rows = {"stage 1": f"model {provenance.get('model')}, objective {provenance.get('objective')}"}
    pooler = provenance.get("parts", {}).get("pooler")
    if pooler:
        rows["pooler's past"] = (
            f"{pooler['origin']}; losses: {', '.join(pooler['losses']) or 'none'}; steps with a gradient: "
            f"{pooler['steps']}; moved {pooler['distance_moved']:.3g} (L2)"
        )
    for name in ("pooler", "cls"):
        geometry = provenance.get(f"{name}_geometry")
        if geometry:
            rows[f"{name} on dev"] = (
                f"effective rank {geometry['effective_rank']:.1f}, mean cosine {geometry['mean_cosine']:.2f}, "
                f"alignment {geometry['alignment']:.3f}, uniformity {geometry['uniformity']:.2f}"
            ) + (f", saturated {geometry['saturated_share']:.0%}" if name == "pooler" else "")
    if provenance.get("warning"):
        rows["warning"] = str(provenance["warning"])
    return rows


if __name__ == "__main__":
    main()
