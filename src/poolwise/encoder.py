"""Load, check and export a BERT encoder with its pooler and its MLM head.

Shapes: B texts, T tokens, H hidden size, V vocabulary, M masked positions.
"""

import hashlib
import importlib.util
import json
import logging
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from httpx import HTTPError
from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.models.bert.modeling_bert import BertOnlyMLMHead, BertPreTrainedModel
from transformers.utils import ModelOutput, cached_file, can_return_tuple

from poolwise.data.masking import IGNORED_LABEL
from poolwise.machine import stay_offline_without_hub
from poolwise.settings import PretrainedModel, ScratchModel, UserError
from poolwise.words import first_line, some

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
PROVENANCE_FILE = "provenance.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
POOLER_KEYS = {"pooler.dense.weight", "pooler.dense.bias"}
DRAWN_IN_STAGE_1 = re.compile(r"^(cls|bert\.pooler)\.")
"""What stage 1 may draw fresh where a checkpoint lacks it; all else must be there."""
UNREAD_KEYS = re.compile(r"^(cls|classifier|dropout)\.|position_ids$")
"""What stage 2 leaves aside in a checkpoint: heads of other tasks, and buffers of old releases."""


@dataclass
class MaskedLMWithPoolerOutput(ModelOutput):  # type: ignore[misc]
    """What `BertForMaskedLMWithPooler` returns.

    Attributes:
        loss: cross entropy in nats, mean over masked positions; None without labels.
        logits: (B, T, V), or (M, V) with `masked_only=True`.
        pooler_output: (B, H), each unit in [-1, 1].
        last_hidden_state: (B, T, H).
        hidden_states: embeddings and each layer, (B, T, H) each, on request (`output_hidden_states=True`).
        attentions: on request (`output_attentions=True`, eager attention).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    pooler_output: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class BertForMaskedLMWithPooler(BertPreTrainedModel):  # type: ignore[misc]
    """BERT with an MLM head and the pooler `tanh(Linear(h_cls))`, stored where `BertModel` looks for it.

    One encoder pass gives token states, MLM logits and the pooler's output. The MLM loss alone never
    reaches the pooler: add a loss on `pooler_output` to train it (see `poolwise.objectives`).

    Attributes:
        pooler_origin: where the pooler's weights came from, in words.
        loading_info: missing and unexpected keys of the checkpoint; empty for a model from a config.
    """

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=True)
        self.cls = BertOnlyMLMHead(config)
        self.pooler_origin = "fresh: model built from a config"
        self.loading_info: dict[str, set[str]] = {}
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        pooler_init: str = "keep",
        **kwargs: Any,
    ) -> Any:
        """Load any BERT checkpoint or hub name, whatever heads it has.

        An MLM head that is missing is drawn fresh and tied to the embeddings. The pooler is kept unless it is
        missing or was never trained (its bias is exactly zero, as initialisation leaves it); then, or with
        `pooler_init="fresh"`, it is drawn from torch's global generator. Each case is logged. Other arguments
        go to `transformers.PreTrainedModel.from_pretrained`, and its return value is passed on.

        Raises:
            ValueError: `pooler_init` is neither `keep` nor `fresh`.
        """
        if pooler_init not in ("keep", "fresh"):
            raise ValueError(f"pooler_init={pooler_init!r}: must be keep or fresh")
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model.loading_info = {key: set(info[key]) for key in ("missing_keys", "unexpected_keys")}
        model._settle_pooler(pooler_init)
        if any(key.startswith("cls.") for key in info["missing_keys"]):
            log.warning(
                "%s has no MLM head: drew a fresh one, tied to its embeddings",
                pretrained_model_name_or_path,
            )
        return (model, info) if wants_info else model

    def _settle_pooler(self, pooler_init: str) -> None:
        missing = any(key.startswith("bert.pooler.") for key in self.loading_info["missing_keys"])
        if pooler_init == "fresh":
            self.pooler_origin = "fresh: asked for"
        elif missing:
            self.pooler_origin = "fresh: the checkpoint has none"
        elif never_trained(self.bert.pooler):
            self.pooler_origin = "fresh: the checkpoint's was never trained (its bias is all zero)"
        else:
            self.pooler_origin = "kept"
        if self.pooler_origin != "kept":
            draw_dense(self.bert.pooler.dense, self.config.initializer_range)
        log.log(
            logging.INFO if self.pooler_origin == "kept" else logging.WARNING,
            "pooler %s",
            self.pooler_origin,
        )

    def get_output_embeddings(self) -> nn.Module:
        """The layer from hidden states to vocabulary logits, tied to the input embeddings."""
        decoder: nn.Module = self.cls.predictions.decoder
        return decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another output layer in place (transformers calls this when the vocabulary is resized)."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Float[Tensor, "B T H"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        masked_only: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> MaskedLMWithPoolerOutput:
        """One encoder pass; the loss when `labels` are given.

        Args:
            input_ids: (B, T) token ids, or `inputs_embeds` (B, T, H) in their place.
            attention_mask: (B, T), 1 at tokens and 0 at padding; or 4-D as `BertModel` takes it.
            token_type_ids: (B, T), zeros if not given.
            position_ids: (1, T) or (B, T), 0 to T-1 if not given.
            inputs_embeds: (B, T, H) in place of `input_ids`.
            labels: (B, T) token ids at masked positions, -100 elsewhere.
            masked_only: form logits (M, V) at the labelled positions only; the loss is the same.
            num_items_in_batch: what the summed loss is divided by, if not the number of labelled positions
                (`transformers.Trainer` gives the count over accumulated batches).

        Returns:
            The output; its loss is 0, not NaN, for a batch without a masked position.

        Raises:
            ValueError: `masked_only` without labels.
        """
        if masked_only and labels is None:
            raise ValueError("masked_only=True needs labels: they say which positions are masked")
        body = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        states = body.last_hidden_state
        loss = None
        if labels is None:
            logits = self.cls(states)
        else:
            masked = labels != IGNORED_LABEL
            logits = self.cls(states[masked] if masked_only else states)
            loss = masked_lm_loss(logits if masked_only else logits[masked], labels[masked], num_items_in_batch)
        return MaskedLMWithPoolerOutput(
            loss=loss,
            logits=logits,
            pooler_output=body.pooler_output,
            last_hidden_state=states,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )


def masked_lm_loss(
    logits: Float[Tensor, "M V"], targets: Int[Tensor, "M"], count: Tensor | int | None = None
) -> Float[Tensor, ""]:
    """Cross entropy in nats at M masked positions, divided by `count` (M if not given); 0 where M is 0."""
    total = functional.cross_entropy(logits.float(), targets, reduction="sum")
    return total / (max(len(targets), 1) if count is None else count)


def draw_dense(module: nn.Module, deviation: float) -> None:
    """Initialise dense layers as BERT does: normal weights (deviation 0.02 in its code), zero biases.

    Layer norms in `module` stay as they are, at scale 1.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=deviation)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def never_trained(pooler: Any) -> bool:
    """Whether the pooler's bias is exactly zero: initialisation leaves it so, one step of training does not."""
    return bool((pooler.dense.bias == 0).all())


def build_from_scratch(model: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> BertForMaskedLMWithPooler:
    """A BERT with random weights drawn with `seed`; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = BertForMaskedLMWithPooler(_scratch_config(model, tokenizer))
    drawn.train()
    return drawn


def scratch_parameters(model: ScratchModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of parameters that `build_from_scratch` gives, without drawing them."""
    with torch.device("meta"):
        one, two = (
            BertForMaskedLMWithPooler(_scratch_config(replace(model, layers=layers), tokenizer)).num_parameters()
            for layers in (1, 2)
        )
    return int(one + (model.layers - 1) * (two - one))


def _scratch_config(model: ScratchModel, tokenizer: PreTrainedTokenizerBase) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden_size,
        num_hidden_layers=model.layers,
        num_attention_heads=model.attention_heads,
        intermediate_size=model.intermediate_size,
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=model.dropout,
        initializer_range=model.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
    )


def load_for_pretraining(path: str, pooler_init: Literal["keep", "fresh"], seed: int) -> BertForMaskedLMWithPooler:
    """Load a checkpoint for stage 1 in train mode; what is fresh is drawn with `seed`.

    Raises:
        UserError: the folder or hub name holds no BERT in safetensors, or its weights are not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: BertForMaskedLMWithPooler = BertForMaskedLMWithPooler.from_pretrained(
                path, pooler_init=pooler_init, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"model={path}: no BERT encoder could be loaded from it ({error})") from error
    lacking = {key for key in model.loading_info["missing_keys"] if not DRAWN_IN_STAGE_1.match(key)}
    if lacking:
        raise UserError(f"model={path} is no whole BERT encoder; missing: {', '.join(sorted(lacking))}")
    check_finite(model, path)
    model.train()
    return model


def freeze_all_but_pooler(model: BertForMaskedLMWithPooler) -> None:
    """Leave the pooler trainable, and the MLM head's own layers where they were drawn fresh because it was missing.

    The head's output layer is tied to the word embeddings, and stays as these do.
    """
    model.requires_grad_(False)
    model.bert.pooler.requires_grad_(True)
    head = model.cls.predictions
    if any(key.startswith("cls.predictions.transform.") for key in model.loading_info["missing_keys"]):
        head.transform.requires_grad_(True)
        head.bias.requires_grad_(True)


def load_encoder(path: str, seed: int, pooler_required: bool) -> tuple[BertModel, str]:
    """Load an encoder for stage 2 in train mode and check that what is in memory is what is on disk.

    Args:
        path: a folder or hub name.
        seed: draws the pooler where the checkpoint has none.
        pooler_required: refuse a checkpoint without a pooler.

    Returns:
        The encoder and the status of its pooler in words (see `pooler_status`).

    Raises:
        UserError: no BERT in safetensors there, keys are missing or unexpected (both sides are listed), or weights
            are not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, info = BertModel.from_pretrained(
                path, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"encoder={path}: no BERT encoder could be loaded from it ({error})") from error
    missing = set(info["missing_keys"]) - (set() if pooler_required else POOLER_KEYS)
    unexpected = {key for key in info["unexpected_keys"] if not UNREAD_KEYS.search(key)}
    if missing or unexpected:
        raise UserError(
            f"encoder={path} does not fit a BERT encoder with its pooler.\n"
            f"  missing: {', '.join(sorted(missing)) or 'none'}\n"
            f"  unexpected: {', '.join(sorted(unexpected)) or 'none'}"
        )
    check_finite(model, path)
    has_pooler = not POOLER_KEYS & set(info["missing_keys"])
    if has_pooler:
        check_pooler(model, weights_file(path))
    return model.train(), pooler_status(path, model, has_pooler)


def check_finite(model: nn.Module, place: str | Path) -> None:
    """Raise a UserError if a weight is not finite; `place` is where the model lies, or is about to."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"{place}: the weights are not finite: training diverged; lower the learning rate")


def check_pooler(model: BertModel, file: Path) -> None:
    """Raise an AssertionError unless the pooler in memory equals the one in the safetensors file."""
    with safe_open(file, framework="pt") as tensors:
        names = {name.removeprefix("bert."): name for name in tensors.keys()}  # noqa: SIM118
        for key in POOLER_KEYS:
            on_disk = tensors.get_tensor(names[key]).to(torch.float32)
            if not torch.equal(model.get_parameter(key).detach().cpu(), on_disk):
                raise AssertionError(f"{key} in memory differs from {file}")


def pooler_status(path: str, model: BertModel, has_pooler: bool) -> str:
    """The pooler in one or two words, for every table it appears in.

    `trained`, `stale` or `random` as an export of stage 1 says in its provenance; else `random` where the
    checkpoint has none, `never trained` where its bias is all zero, and `as released` otherwise.
    """
    if not has_pooler:
        return "random"
    noted = provenance_of(Path(path))
    if noted:
        return str(noted["pooler_status"])
    return "never trained" if never_trained(model.pooler) else "as released"


def provenance_of(folder: Path) -> dict[str, Any]:
    """What stage 1 noted of an export; empty where there is no note, or one of another program."""
    file = folder / PROVENANCE_FILE
    noted = read_json(file) if file.is_file() else {}
    return noted if "pooler_status" in noted else {}


def read_json(file: Path) -> dict[str, Any]:
    """The names and values of a JSON file.

    Raises:
        UserError: there is no such file, it is no JSON, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} holds no {file.name}") from error
    except (OSError, ValueError) as error:
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
    """See that a folder or hub name holds a whole BERT in safetensors; no weights are read.

    Args:
        path: folder or hub name.
        refuse_unexpected: as stage 2 does, see `load_encoder`.

    Raises:
        UserError: something is missing, broken, or does not fit the config.
    """
    folder = Path(path)
    if folder.exists():
        check_folder(folder)
    else:
        stay_offline_without_hub()
    check_family(path)
    _check_tensors(path, refuse_unexpected)
    if folder.exists() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer: neither {' nor '.join(TOKENIZER_FILES)}")


def _check_tensors(path: str, refuse_unexpected: bool) -> None:
    """Raise a UserError unless the tensors in the file are those that the config asks for, pooler and heads aside."""
    found = tensor_shapes(weights_file(path))
    config = _config(path)
    # A config that asks for more layers than there are tensors lacks some in any case.
    config.num_hidden_layers = min(config.num_hidden_layers, len(found))
    try:
        with torch.device("meta"):
            expected = {key: list(tensor.shape) for key, tensor in BertModel(config).state_dict().items()}
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{path}: no BERT can be built from its config.json ({first_line(error)})") from error
    missing = expected.keys() - found.keys() - POOLER_KEYS
    unexpected = {key for key in found.keys() - expected.keys() if not UNREAD_KEYS.search(key)}
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
    """Names, as `BertModel` has them, and shapes of the tensors in a safetensors file; reads its header only.

    Raises:
        UserError: the file is broken or truncated.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no whole safetensors file ({error})") from error
    return {_name_today(name): shape for name, shape in shapes.items()}


def _name_today(name: str) -> str:
    """Checkpoints of 2019, such as `google-bert/bert-base-uncased`, name layer norms as TensorFlow did."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def check_family(path: str) -> None:
    """Raise a UserError unless the config of a folder or hub name is that of a BERT."""
    kind = _kind_of(path)
    if kind != "bert":
        raise UserError(f"{path} holds a {kind or 'nameless'} model (config.json); only BERT encoders can be used")


def check_folder(folder: Path) -> None:
    """Raise a UserError unless a folder has a config and weights in safetensors."""
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; an encoder is a folder with config.json and {WEIGHTS_FILE}")
    names = {file.name for file in folder.iterdir()}
    if "config.json" not in names:
        raise UserError(f"{folder} is no encoder: it has no config.json (it has {some(sorted(names)) or 'nothing'})")
    if WEIGHTS_FILE in names:
        return
    pickles = sorted(name for name in names if name.startswith("pytorch_model") and name.endswith(".bin"))
    if pickles:
        raise UserError(
            f"{folder} has its weights in {some(pickles)}, a pickle, which can run code when it is read; "
            f"save it as {WEIGHTS_FILE}: model.save_pretrained(FOLDER) does so"
        )
    raise UserError(f"{folder} is no encoder: it has no {WEIGHTS_FILE}")


def _kind_of(path: str) -> str:
    """The `model_type` of a checkpoint's config, such as `bert`.

    Raises:
        UserError: there is no config, or it cannot be had.
    """
    try:
        config = json.loads(Path(str(cached_file(path, "config.json"))).read_text(encoding="utf-8"))
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(_not_to_be_had(path, error)) from error
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


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


def _config(path: str) -> BertConfig:
    try:
        return BertConfig.from_pretrained(path)
    except (OSError, ValueError, TypeError, HTTPError, StrictDataclassError) as error:
        raise UserError(_not_to_be_had(path, error)) from error


def condition_of(folder: Path) -> str | None:
    """The condition of the stage-1 run that exported this folder; None for a folder of other origin."""
    condition = provenance_of(folder).get("condition")
    return None if condition is None else str(condition)


def reads_labels(folder: Path) -> bool:
    """Whether stage 1 trained this folder's encoder on labels that tell about sentiment, as its provenance says."""
    return any(notes["reads_labels"] for notes in provenance_of(folder).get("objectives", {}).values())


def longest_text(path: str) -> int:
    """How many positions a checkpoint has, special tokens counted."""
    return int(_config(path).max_position_embeddings)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def export(
    model: BertForMaskedLMWithPooler,
    tokenizer: PreTrainedTokenizerBase,
    provenance: dict[str, Any],
    card: str,
    folder: Path,
) -> None:
    """Write the checkpoint so that it appears whole or not at all, and check that `BertModel` finds it all.

    The folder holds config, safetensors weights, tokenizer files, `provenance.json` and a model card. Its
    `architectures` entry names a class that every transformers installation has.

    Raises:
        UserError: weights are not finite, what was written does not load without a missing key, or the folder
            cannot be written.
    """
    check_finite(model, folder)
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        model.save_pretrained(draft)
        config = json.loads((draft / "config.json").read_text())
        config["architectures"] = ["BertForMaskedLM"]
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tokenizer.save_pretrained(draft)
        (draft / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n")
        (draft / "README.md").write_text(card)
        load_encoder(str(draft), seed=0, pooler_required=True)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except OSError as error:
        raise UserError(f"the export could not be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
