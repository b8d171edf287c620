"""What lies on disk: whether it is a whole checkpoint, of which family, what is noted of it, its fingerprint."""

import hashlib
import importlib.util
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from httpx import HTTPError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from poolwise.durable import hash_of_file
from poolwise.families import POOLER_KEYS, Family, body_with_pooler, family_named
from poolwise.machine import is_plain_name, stay_offline_without_hub
from poolwise.runs import EXPORT_FOLDER
from poolwise.settings import PretrainedModel, UserError
from poolwise.words import first_line, some

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
"""In the folder of a stage-1 run."""
PROVENANCE_FILE = "provenance.json"
SUMS_FILE = "SHA256SUMS"
"""In an export, of all other files, as `sha256sum --check` reads it; exports of the first days have none."""
WEIGHTS_HASH = "weights_sha256"
"""The entry of the provenance that says which weights it is about; exports of the first days have none."""
READ_BEFORE = "start_reads_labels"
"""The entry of the provenance that says whether the encoder that stage 1 started from had been trained on labels."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")


POOLER_STATUSES = ("trained", "random", "stale", "collapsed", "as released", "never trained")


def provenance_of(folder: Path) -> dict[str, Any]:
    """What stage 1 noted of an export; empty where there is no note, or one of another program or of other weights."""
    file = folder / PROVENANCE_FILE
    noted = read_json(file) if file.is_file() else {}
    if noted.get("pooler_status") not in POOLER_STATUSES or not isinstance(noted.get("parts", {}), dict):
        return {}
    wanted, weights = noted.get(WEIGHTS_HASH), folder / WEIGHTS_FILE
    if wanted is not None and weights.is_file() and file_hash(weights) != wanted:
        return {}
    return noted


def read_json(file: Path) -> dict[str, Any]:
    """The names and values of a JSON file.

    Raises:
        UserError: there is no such file, it is no JSON, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} holds no {file.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} cannot be read (it holds no names and values)")
    return content


def locate(model: PretrainedModel) -> str:
    """The folder inside the installed package that carries the model, if there is one; else `model.path`."""
    spec = importlib.util.find_spec(model.package) if model.package else None
    if spec is not None and spec.origin is not None:
        for config in sorted(Path(spec.origin).parent.rglob("config.json")):
            if (config.parent / WEIGHTS_FILE).is_file():
                return str(config.parent)
    return model.path


def check_checkpoint(path: str, refuse_unexpected: bool) -> None:
    """See that a folder or hub name holds a whole encoder in safetensors; no weights are read.

    Args:
        path: folder or hub name.
        refuse_unexpected: as stage 2 does, see `load_encoder`.

    Raises:
        UserError: something is missing, broken, or does not fit the config.
    """
    folder = Path(path)
    if folder.exists():
        check_folder(folder)
        check_sums(folder)
    else:
        stay_offline_without_hub()
    family, weights = check_family(path), weights_file(path)
    _check_tensors(path, family, refuse_unexpected, _facts(weights), _facts(weights.with_name("config.json")))
    if folder.exists() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer: neither {' nor '.join(TOKENIZER_FILES)}")


@lru_cache(maxsize=64)
def _check_tensors(path: str, family: Family, refuse_unexpected: bool, *_seen: tuple[int, int]) -> None:
    """Raise a UserError unless the tensors in the file are those that the config asks for, pooler and heads aside.

    Both files are looked at once as long as what is `_seen` of them stays: the jobs of a sweep all ask.
    """
    found = {_name_in_body(name, family): shape for name, shape in tensor_shapes(weights_file(path)).items()}
    config = _config(path)
    # A config that asks for more layers than there are tensors lacks some in any case.
    config.num_hidden_layers = min(config.num_hidden_layers, len(found))
    try:
        with torch.device("meta"):
            expected = {
                key: list(tensor.shape) for key, tensor in body_with_pooler(family)(config).state_dict().items()
            }
    except Exception as error:  # what a wrong config raises has no type of its own
        raise UserError(f"{path}: no {family.name} can be built from its config.json ({first_line(error)})") from error
    missing = expected.keys() - found.keys() - POOLER_KEYS
    unexpected = {key for key in found.keys() - expected.keys() if not family.is_unread(key)}
    if missing or (refuse_unexpected and unexpected):
        raise UserError(
            f"{path}: {WEIGHTS_FILE} does not fit config.json; missing: {some(sorted(missing)) or 'none'}; "
            f"unexpected: {some(sorted(unexpected)) or 'none'}"
        )
    misfits = [key for key in expected if found.get(key, expected[key]) != expected[key]]
    if misfits:
        key = misfits[0]
        raise UserError(
            f"{path}: {WEIGHTS_FILE} does not fit config.json: {key} has shape {found[key]}, and the config asks for "
            f"{expected[key]}" + (f"; {len(misfits) - 1} more do not fit" if len(misfits) > 1 else "")
        )


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors in a safetensors file; reads its header only.

    Raises:
        UserError: the file is broken or truncated.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no whole safetensors file ({error})") from error


def _name_in_body(name: str, family: Family) -> str:
    """A tensor's name as the body has it.

    Checkpoints of 2019, such as `google-bert/bert-base-uncased`, name layer norms as TensorFlow did.
    """
    name = name.removeprefix(family.prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


FETCHED = ("config.json", "model*.safetensors", f"{WEIGHTS_FILE}.index.json", PROVENANCE_FILE, *TOKENIZER_FILES)
"""Of a repository of the hub, what may be looked at."""


def fetched(name: str) -> Path:
    """The folder of this disk that holds a checkpoint of the hub, `OWNER/NAME`, fetched if it is not there yet.

    Raises:
        UserError: it cannot be had.
    """
    stay_offline_without_hub()
    try:
        return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(_not_to_be_had(name, error)) from error


def check_family(path: str) -> Family:
    """The family of the encoder in a folder or hub name, as its config says.

    Raises:
        UserError: there is no config, or the family is not supported; the message lists those that are.
    """
    return family_named(_kind_of(path), path)


def check_folder(folder: Path) -> None:
    """Raise a UserError unless a folder has a config and weights in safetensors."""
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; an encoder is a folder with config.json and {WEIGHTS_FILE}")
    names = {file.name for file in folder.iterdir()}
    if "config.json" not in names and (folder / EXPORT_FOLDER / "config.json").is_file():
        raise UserError(f"{folder} is the folder of a run; its encoder is {folder / EXPORT_FOLDER}")
    if "config.json" not in names:
        raise UserError(f"{folder} is no encoder: it has no config.json (it has {some(sorted(names)) or 'nothing'})")
    if WEIGHTS_FILE in names:
        return
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise UserError(
            f"{folder} has its weights in {some(pickles)}, a pickle, which can run code when it is read; "
            f"save it as {WEIGHTS_FILE}: model.save_pretrained(FOLDER) does so"
        )
    raise UserError(f"{folder} is no encoder: it has no {WEIGHTS_FILE}")


def write_sums(folder: Path) -> None:
    """Write the checksums of all files in the folder of an export; folders in it have their own."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    (folder / SUMS_FILE).write_text("".join(f"{file_hash(file)}  {file.name}\n" for file in files))


def check_sums(folder: Path) -> None:
    """Raise a UserError if a file of an export is not what was written."""
    if not (folder / SUMS_FILE).exists():
        return
    if not (folder / SUMS_FILE).is_file():
        raise UserError(f"{folder}: {SUMS_FILE} is no file; remove it if it was put there on purpose")
    for line in (folder / SUMS_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        wanted, _, name = line.partition("  ")
        file = folder / name
        if not is_plain_name(name) or not file.is_file() or file_hash(file) != wanted:
            raise UserError(
                f"{folder}: {name} is not what was written there, by {SUMS_FILE}. If it was damaged, copy the folder "
                f"again, or remove it with its run and make it again; if it was changed on purpose, remove {SUMS_FILE}"
            )


def _kind_of(path: str) -> str:
    """The `model_type` of a checkpoint's config, such as `bert`.

    Raises:
        UserError: there is no config, or it cannot be had.
    """
    try:
        config = json.loads(Path(str(cached_file(path, "config.json"))).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, HTTPError) as error:
        raise UserError(_not_to_be_had(path, error)) from error
    if not isinstance(config, dict):
        return ""
    _refuse_what_is_not_read(path, config)
    return str(config.get("model_type", ""))


NOT_READ = {
    "auto_map": "code of its own, which is never run; if a family as it is reads its weights, take the entry out",
    "quantization_config": "weights that are quantised; save them as they were before",
    "transformers_weights": f"weights in another file than {WEIGHTS_FILE}; name that file so",
}
"""Entries of config.json by which transformers would load other code or weights than those that are checked."""


def _refuse_what_is_not_read(path: str, config: dict[str, Any]) -> None:
    """Raise a UserError if a config asks for code or weights beside the checkpoint's own."""
    asked = {name: reason for name, reason in NOT_READ.items() if config.get(name)}
    for name in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(name, "")):
            asked[name] = f"a kernel of the hub, {config[name]}, whose code is never run; take the entry out"
    for name, reason in asked.items():
        raise UserError(f"{path}: its config.json asks, by {name}, for {reason}")
    if find_adapter_config_file(path) is not None:
        raise UserError(f"{path} holds an adapter (adapter_config.json) of another model; merge the two, and save that")


def _not_to_be_had(path: str, error: Exception) -> str:
    if Path(path).exists():
        return f"{path} holds no config.json and {WEIGHTS_FILE} that could be read ({first_line(error)})"
    offline = constants.HF_HUB_OFFLINE
    reason = "does not answer or is switched off" if offline else f"does not give it ({first_line(error)})"
    return (
        f"{path} is not on this disk, and the hub ({constants.ENDPOINT}) {reason}. "
        "Use a folder that you have (model=FOLDER), model=minilm or model=tiny, which need no network, or fetch it "
        f"where there is one: hf download {path}"
    )


def weights_file(path: str) -> Path:
    """The safetensors file of a folder or hub name.

    Raises:
        UserError: there is none.
    """
    try:
        file = cached_file(path, WEIGHTS_FILE)
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(_not_to_be_had(path, error)) from error
    return Path(str(file))


def fingerprint(path: str) -> str:
    """SHA-256 over what a checkpoint computes: its weights and its config (sizes, dropout)."""
    config = _config(path).to_dict()
    for changing in ("transformers_version", "_name_or_path", "architectures", "dtype"):
        config.pop(changing, None)
    material = [file_hash(weights_file(path)), config]
    return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()


def _config(path: str) -> PreTrainedConfig:
    family = check_family(path)
    try:
        config: PreTrainedConfig = family.masked_lm.config_class.from_pretrained(path)
    except (OSError, ValueError, TypeError, HTTPError, StrictDataclassError) as error:
        raise UserError(_not_to_be_had(path, error)) from error
    return config


def vocabulary_size(path: str) -> int:
    """How many word pieces the encoder of a folder or hub name has embeddings of."""
    return int(_config(path).vocab_size)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name.

    Raises:
        UserError: there is none, it knows no word, or it is of another model.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # what a broken file raises has no type of its own
        raise UserError(f"{path}: no tokenizer could be loaded from it ({first_line(error)})") from error
    if tokenizer.init_kwargs.get("auto_map"):
        log.warning("WARNING: %s: its tokenizer brings code of its own, which is not run", path)
    if tokenizer.pad_token_id is None:
        raise UserError(f"{path}: its tokenizer has no padding token, so texts cannot be put into batches")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{path}: the vocabulary of its tokenizer holds special tokens only")
    last, rows = max(tokenizer.get_vocab().values()), vocabulary_size(path)
    if last >= rows:
        raise UserError(
            f"{path}: its tokenizer has word pieces up to number {last:,}, and the model embeddings of {rows:,}; put "
            "the tokenizer there that the model was trained with"
        )
    return tokenizer


def pooler_notes(folder: Path) -> dict[str, Any]:
    """What stage 1 noted of this export's pooler, in a few figures; empty for a folder of other origin."""
    noted = provenance_of(folder)
    pooler = noted.get("parts", {}).get("pooler")
    if pooler is None:
        return {}
    return {
        "pooler_status": noted["pooler_status"],
        "origin": pooler["origin"],
        "losses": pooler["losses"],
        "steps": pooler["steps"],
        "gradient_norm": pooler["mean_gradient_norm"],
        "relative_distance_moved": pooler.get("relative_distance_moved"),
        "geometry": noted.get("pooler_geometry", {}),
    }


def reads_labels(folder: Path) -> bool:
    """Whether a stage 1 trained this folder's encoder on labels that tell about sentiment, as its provenance says.

    That may have been this one, or one before it, from which it started.
    """
    noted = provenance_of(folder)
    return bool(noted.get(READ_BEFORE)) or any(notes["reads_labels"] for notes in noted.get("objectives", {}).values())


def longest_text(path: str) -> int:
    """How many positions a checkpoint has for tokens, special ones counted."""
    return check_family(path).longest_text(_config(path))


def has_pooler(path: str) -> bool:
    """Whether a checkpoint holds a pooler, of whatever origin; reads the header of its weights."""
    family = check_family(path)
    return {_name_in_body(name, family) for name in tensor_shapes(weights_file(path))} >= POOLER_KEYS


def layer_count(path: str) -> int:
    """How many layers a checkpoint has, as its config says."""
    return int(_config(path).num_hidden_layers)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return _hash_of(file, *_facts(file))


def _facts(file: Path) -> tuple[int, int]:
    """The size and the time of change, by which one sees that a file is as it was."""
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=64)
def _hash_of(file: Path, _size: int, _changed: int) -> str:
    """The hash of a file as it was when it had this size and this time of change."""
    return hash_of_file(file)
