"""The model of stage 1, an encoder of any family with its pooler and its MLM head; loading it for both stages; export.

Shapes: B texts, T tokens, H hidden size, V vocabulary, M masked positions.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple

from poolwise.checkpoints import (
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    WEIGHTS_HASH,
    check_family,
    file_hash,
    provenance_of,
    weights_file,
    write_sums,
)
from poolwise.cross_entropy import CrossEntropy, is_by_rows
from poolwise.data.masking import IGNORED_LABEL, positions_of
from poolwise.durable import draft_folder_of
from poolwise.families import (
    FAMILIES,
    POOLER_KEYS,
    Family,
    Pooler,
    body_with_pooler,
    family_of,
    first_places,
    last_layer_at,
)
from poolwise.packing import PACKED, Packing
from poolwise.settings import ScratchModel, UserError
from poolwise.words import first_line

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 32
"""Logits at masked positions are made for a multiple of so many rows, those beyond left out of the loss: a matrix
product of a shape that was not seen before is first made ready, which takes tiny a third of its time on a CPU in bf16
where numbers of masked positions are what they are (`positions` in experiments/throughput/settings.csv)."""


@dataclass
class MaskedLMWithPoolerOutput(ModelOutput):  # type: ignore[misc]
    """What `MaskedLMWithPooler` returns.

    Attributes:
        loss: cross entropy in nats, mean over masked positions; None without labels.
        logits: (B, T, V), or (M, V) with `masked_only=True`.
        pooler_output: (B, H), each unit in [-1, 1].
        last_hidden_state: (B, T, H); None with `only_read=True`.
        hidden_states: embeddings and each layer, (B, T, H) each, on request (`output_hidden_states=True`).
        attentions: on request (`output_attentions=True`, eager attention).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    pooler_output: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MaskedLMWithPooler(PreTrainedModel):  # type: ignore[misc]
    """What a family's own model for MLM becomes: with the pooler `tanh(Linear(h_cls))`, and all from one encoder pass.

    The pooler lies where the family's own body looks for it, or beside the body where that has none (see
    `poolwise.families`). The MLM loss alone never reaches it: add a loss on `pooler_output` to train it (see
    `poolwise.objectives`). `model_class` makes the class of each family.

    Attributes:
        family: its row of the table.
        pooler_origin: where the pooler's weights came from, in words.
        loading_info: missing and unexpected keys of the checkpoint; empty for a model from a config.
        leaves_out_padding: whether passes that are given a `packing` compute no padding.
        compiles_layers: whether what a layer does in training is compiled.
    """

    family: ClassVar[Family]

    def __init__(self, config: PreTrainedConfig) -> None:
        family = self.family
        if family.head_beside_pooler is None:
            super().__init__(config)
            self.pooler = Pooler(config)
            draw_dense(self.pooler, config.initializer_range)
        else:
            # The family's own __init__ would make a body without its pooler.
            super(family.masked_lm, self).__init__(config)
            self.add_module(self.base_model_prefix, family.body(config, add_pooling_layer=True))
            self.add_module(family.mlm_head[0], family.head_beside_pooler(config))
            self.post_init()
        self.pooler_origin = "fresh: model built from a config"
        self.loading_info: dict[str, set[str]] = {}
        self.leaves_out_padding = self.compiles_layers = False

    @property
    def reads_last_layer_in_part(self) -> bool:
        """Whether passes with `only_read` are possible: not without padding, whose layers may be compiled, nor where
        layers are computed a second time in the backward pass."""
        last = self.body.get_submodule(self.family.layers)[-1]
        whole = self.leaves_out_padding or getattr(last, "gradient_checkpointing", False)
        return self.family.after_attention is not None and not whole

    @property
    def body(self) -> Any:
        """The family's own encoder."""
        return self.base_model

    @property
    def pooling_layer(self) -> Any:
        """The pooler: a module from the last layer's states (B, T, H) to vectors (B, H), with a layer `dense`."""
        return self.body.pooler if self.family.has_pooler else self.pooler

    @property
    def mlm_head(self) -> "MLMHead":
        """The MLM head as one module, which shares its parameters with this model."""
        return MLMHead(self)

    def mlm_logits(self, states: Float[Tensor, "... H"]) -> Float[Tensor, "... V"]:
        """States, or vectors like them, through the MLM head."""
        return self.family.mlm_logits(self, states)

    def token_embeddings(
        self, input_ids: Int[Tensor, "B T"], token_type_ids: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T H"]:
        """What enters the first layer; token types are left aside where the body tells none."""
        embedded: Tensor = self.body.embeddings(input_ids, **self._token_types(token_type_ids))
        return embedded

    def sentence_vectors(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Tensor, token_type_ids: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B H"]:
        """The pooler's outputs, in one encoder pass without the MLM head."""
        types = self._token_types(token_type_ids)
        return self._pooled(self.body(input_ids, attention_mask=attention_mask, **types))

    def leave_out_padding(self) -> None:
        """Have passes that are given a `packing` compute no padding. Others stay as they are.

        Raises:
            ValueError: the family's attention is not within whole texts, or has no position embeddings.
        """
        if not self.family.can_leave_out_padding:
            raise ValueError(f"{self.family.name} has an attention of its own, which cannot leave out padding")
        self.body.set_attn_implementation(PACKED)
        self.leaves_out_padding = True

    def compile_layers(self) -> None:
        """Have torch compile what a layer does in training, once for all layers and all sizes of batches.

        What is measured on dev is not compiled: that would take longer than it. Where compiling fails, that is told,
        and layers stay as they are.
        """
        torch._functorch.config.donated_buffer = False  # a loss's gradient alone is asked of a graph that is kept
        torch._functorch.config.force_non_lazy_backward_lowering = True  # else it fails in the backward pass
        for layer in self.body.get_submodule(self.family.layers):
            layer.forward = self._compiled_in_training(layer)
        self.compiles_layers = True

    def _compiled_in_training(self, layer: nn.Module) -> Callable[..., Any]:
        eager, compiled = layer.forward, torch.compile(layer.forward, dynamic=True)

        def forward(*states: Any, **how: Any) -> Any:
            if not (layer.training and self.compiles_layers):
                return eager(*states, **how)
            try:
                return compiled(*states, **how)
            except torch._dynamo.exc.TorchDynamoException as error:
                self.compiles_layers = False
                why = first_line(getattr(error, "inner_exception", error))
                log.warning("WARNING: layers cannot be compiled, and are computed as they are: %s", why)
                return eager(*states, **how)

        return forward

    def _body_without_padding(
        self, input_ids: Int[Tensor, "B T"], token_type_ids: Int[Tensor, "B T"] | None, packing: Packing
    ) -> BaseModelOutputWithPooling:
        types = None if token_type_ids is None else packing.packed(token_type_ids)
        positions = packing.places % input_ids.shape[1] + self.family.first_position(self.config)
        states = self.body(
            packing.packed(input_ids),
            **self._token_types(types),
            position_ids=positions.unsqueeze(0),
            packing=packing,
            return_dict=True,
        ).last_hidden_state
        padded = packing.padded(states, input_ids.shape)
        return BaseModelOutputWithPooling(last_hidden_state=padded, pooler_output=self.pooling_layer(padded))

    @staticmethod
    def _rows_read(
        labels: Int[Tensor, "B T"] | None, masked_positions: Int[Tensor, "M"] | None, masked_only: bool
    ) -> tuple[Int[Tensor, "M"], Int[Tensor, "N"]]:
        """The labelled positions, and these with what logits at them alone are made for beside: N, a multiple."""
        if labels is None:
            return (none := torch.empty(0, dtype=torch.long)), none
        at = positions_of(labels) if masked_positions is None else masked_positions
        return at, functional.pad(at, (0, -len(at) % ROWS_AT_ONCE if masked_only else 0))

    def _body_where_read(
        self, rows: Int[Tensor, "N"], *, input_ids: Int[Tensor, "B T"], **inputs: Any
    ) -> BaseModelOutputWithPooling:
        """The last layer's states (N, H) at `rows`, and pooler outputs (B, H)."""
        first = first_places(input_ids)
        with last_layer_at(self.body, torch.cat([first, rows])):
            states = self.body(input_ids, **inputs).last_hidden_state[0]
        of_first, of_rows = states.split([len(first), len(rows)])
        return BaseModelOutputWithPooling(
            last_hidden_state=of_rows, pooler_output=self.pooling_layer(of_first.unsqueeze(1))
        )

    def _pooled(self, output: Any) -> Tensor:
        pooled: Tensor = output.pooler_output if self.family.has_pooler else self.pooler(output.last_hidden_state)
        return pooled

    def _token_types(self, token_type_ids: Tensor | None) -> dict[str, Tensor | None]:
        return {"token_type_ids": token_type_ids} if self.family.tells_segments(self.config) else {}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        pooler_init: str = "keep",
        **kwargs: Any,
    ) -> Any:
        """Load any checkpoint or hub name of the family, whatever heads it has.

        An MLM head that is missing is drawn fresh and tied to the embeddings. The pooler is kept unless it is
        missing or was never trained (see `never_trained`); then, or with `pooler_init="fresh"`, it is drawn from
        torch's global generator. Each case is logged. Other arguments go to
        `transformers.PreTrainedModel.from_pretrained`, and its return value is passed on.

        Raises:
            ValueError: `pooler_init` is neither `keep` nor `fresh`.
        """
        if pooler_init not in ("keep", "fresh"):
            raise ValueError(f"pooler_init={pooler_init!r}: must be keep or fresh")
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model.loading_info = {key: set(info[key]) for key in ("missing_keys", "unexpected_keys")}
        model._settle_pooler(pooler_init)
        if any(cls.family.in_mlm_head(key) for key in info["missing_keys"]):
            log.warning(
                "%s has no MLM head: drew a fresh one, tied to its embeddings",
                pretrained_model_name_or_path,
            )
        return (model, info) if wants_info else model

    def _settle_pooler(self, pooler_init: str) -> None:
        missing = bool(self.family.pooler_keys & self.loading_info["missing_keys"])
        if pooler_init == "fresh":
            self.pooler_origin = "fresh: asked for"
        elif missing:
            self.pooler_origin = "fresh: the checkpoint has none"
        elif never_trained(self.pooling_layer.dense.weight, self.pooling_layer.dense.bias):
            self.pooler_origin = "fresh: the checkpoint's was never trained (it is as initialisation leaves it)"
        else:
            self.pooler_origin = "kept"
        if self.pooler_origin != "kept":
            draw_dense(self.pooling_layer.dense, self.config.initializer_range)
        log.log(
            logging.INFO if self.pooler_origin == "kept" else logging.WARNING,
            "pooler %s",
            self.pooler_origin,
        )

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
        masked_positions: Int[Tensor, "M"] | None = None,
        only_read: bool = False,
        packing: Packing | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> MaskedLMWithPoolerOutput:
        """One encoder pass; the loss when `labels` are given.

        Args:
            input_ids: (B, T) token ids, or `inputs_embeds` (B, T, H) in their place.
            attention_mask: (B, T), 1 at tokens and 0 at padding; or 4-D as the body takes it.
            token_type_ids: (B, T), zeros if not given; left aside where the body tells no token types.
            position_ids: (1, T) or (B, T), as the body counts them if not given.
            inputs_embeds: (B, T, H) in place of `input_ids`.
            labels: (B, T) token ids at masked positions, -100 elsewhere.
            masked_only: form logits (M, V) at the labelled positions only; the loss is the same.
            masked_positions: (M,) places of the labelled positions among the B T ones, row by row, where they are
                known: a GPU would have to be waited for to learn from `labels` how many there are.
            only_read: with `masked_only`, of the last layer, after its attention, compute what logits and pooler read
                alone: states at labelled positions and at token 0. Loss, logits and pooler output are the same; nothing
                else is given. From `input_ids`, where `reads_last_layer_in_part`.
            packing: where the tokens lie, after `leave_out_padding`, to compute these alone; states at padding are then
                0, and there are no `hidden_states` of layers.
            num_items_in_batch: what the summed loss is divided by, if not the number of labelled positions
                (`transformers.Trainer` gives the count over accumulated batches).

        Returns:
            The output; its loss is 0, not NaN, for a batch without a masked position.

        Raises:
            ValueError: `masked_only` without labels, `only_read` where that is not possible, or `packing` before
                `leave_out_padding`, when texts would see one another.
        """
        if masked_only and labels is None:
            raise ValueError("masked_only=True needs labels: they say which positions are masked")
        if only_read and not (masked_only and input_ids is not None and self.reads_last_layer_in_part):
            raise ValueError("only_read=True needs masked_only=True, input_ids and reads_last_layer_in_part")
        at, rows = self._rows_read(labels, masked_positions, masked_only)
        if packing is not None:
            if input_ids is None or self.body.config._attn_implementation != PACKED:
                raise ValueError("packing needs input_ids, and leave_out_padding() before")
            body = self._body_without_padding(input_ids, token_type_ids, packing)
        else:
            inputs = {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                **self._token_types(token_type_ids),
                "position_ids": position_ids,
                "inputs_embeds": inputs_embeds,
                "return_dict": True,
                **kwargs,
            }
            body = self._body_where_read(rows, **inputs) if only_read else self.body(**inputs)
        states, loss = body.last_hidden_state, None
        if masked_only:
            of_rows = self.mlm_logits(states if only_read else states.flatten(0, 1).index_select(0, rows))
            logits = of_rows[: len(at)]
        else:
            logits = self.mlm_logits(states)
        if labels is not None:
            if not masked_only:
                of_rows = logits.flatten(0, 1).index_select(0, rows)
            surplus = len(rows) - len(at)
            targets = functional.pad(labels.flatten().index_select(0, at), (0, surplus), value=IGNORED_LABEL)
            count = max(len(at), 1) if num_items_in_batch is None else num_items_in_batch
            loss = masked_lm_loss(of_rows, targets, count)
        return MaskedLMWithPoolerOutput(
            loss=loss,
            logits=logits,
            pooler_output=body.pooler_output if only_read else self._pooled(body),
            last_hidden_state=None if only_read else states,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )


class MLMHead(nn.Module):
    """The MLM head of a model as one module, where its family has several."""

    def __init__(self, model: MaskedLMWithPooler) -> None:
        super().__init__()
        self.family = model.family
        for name in model.family.mlm_head:
            self.add_module(name, getattr(model, name))

    def forward(self, states: Float[Tensor, "... H"]) -> Float[Tensor, "... V"]:
        """States to logits."""
        return self.family.mlm_logits(self, states)


@cache
def model_class(family: Family) -> type[MaskedLMWithPooler]:
    """The class of a family's model, `FAMILY`ForMaskedLMWithPooler, with the family's own names of tensors."""
    name = f"{family.masked_lm.__name__}WithPooler"
    return type(name, (MaskedLMWithPooler, family.masked_lm), {"__module__": __name__, "family": family})


BertForMaskedLMWithPooler = model_class(FAMILIES["bert"])


def masked_lm_loss(
    logits: Float[Tensor, "M V"], targets: Int[Tensor, "M"], count: Tensor | int | None = None
) -> Float[Tensor, ""]:
    """Cross entropy in nats at M masked positions, divided by `count` (M if not given); 0 where M is 0."""
    divisor = max(len(targets), 1) if count is None else count
    if is_by_rows(logits):
        loss: Tensor = CrossEntropy.apply(logits, targets, float(divisor))  # type: ignore[no-untyped-call]
        return loss
    return functional.cross_entropy(logits.float(), targets, reduction="sum") / divisor


@contextmanager
def drawn_with(seed: int) -> Iterator[None]:
    """Draw what is drawn inside on the CPU with `seed`; torch's global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not the accelerator's, from which dropout is drawn later
        yield


def fresh_dense(size: int, deviation: float) -> nn.Linear:
    """A dense layer (H to H) from torch's global generator, initialised as BERT does."""
    dense = nn.Linear(size, size)
    draw_dense(dense, deviation)
    return dense


def draw_dense(module: nn.Module, deviation: float) -> None:
    """Initialise dense layers as BERT does: normal weights (deviation 0.02 in its code), zero biases.

    Layer norms in `module` stay as they are, at scale 1.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=deviation)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


LARGEST_DRAWN = 0.999
"""Of H x H uniform draws, the largest's share of their bound that it exceeds but once in 20,000 times at H = 100, and
practically always above."""


def never_trained(weight: Float[Tensor, "H H"], bias: Float[Tensor, " H"]) -> bool:
    """Whether a pooler's dense layer is as initialisation leaves it, and one step of training does not.

    That is a bias of exactly zero, as BERT draws it, or weights and bias evenly between -1 / sqrt(H) and 1 / sqrt(H),
    as `torch.nn.Linear` draws them: none lies beyond, and the largest weight just within. One step of AdamW at a
    learning rate of 1e-5 takes some weight beyond (from H = 256 on; narrower ones may need several steps).
    """
    if (bias == 0).all():
        return True
    bound = float(len(bias)) ** -0.5 * (1 + torch.finfo(torch.float32).eps)
    largest = float(weight.detach().abs().max())
    return LARGEST_DRAWN * bound <= largest <= bound and bool(bias.detach().abs().max() <= bound)


def build_from_scratch(model: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> MaskedLMWithPooler:
    """A BERT with random weights drawn with `seed`; torch's global generator is left as it was."""
    with drawn_with(seed):
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


def load_for_pretraining(path: str, pooler_init: Literal["keep", "fresh"], seed: int) -> MaskedLMWithPooler:
    """Load a checkpoint for stage 1 in train mode; what is fresh is drawn with `seed`.

    Raises:
        UserError: the folder or hub name holds no encoder of a known family in safetensors, or its weights are not
            finite.
    """
    family = check_family(path)
    with drawn_with(seed):
        try:
            model: MaskedLMWithPooler = model_class(family).from_pretrained(
                path, pooler_init=pooler_init, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"model={path}: no {family.name} encoder could be loaded from it ({error})") from error
    lacking = {
        key
        for key in model.loading_info["missing_keys"] - family.pooler_keys
        if not family.in_mlm_head(key)  # stage 1 draws it fresh
    }
    if lacking:
        raise UserError(f"model={path} is no whole {family.name} encoder; missing: {', '.join(sorted(lacking))}")
    check_finite(model, path)
    model.train()
    return model


def set_vocabulary(model: PreTrainedModel, pieces: Sequence[Sequence[int]], pad_id: int) -> None:
    """Give a model another vocabulary: a row of its embeddings is the mean of the old rows of its pieces.

    So is a row of the MLM head's output layer, if the model has one, tied or not, and its bias.

    Args:
        model: with or without an MLM head; changed in place.
        pieces: V lists of old ids (see `poolwise.data.vocabulary.Vocabulary`).
        pad_id: the new id of padding.
    """

    def tables() -> list[Tensor]:
        embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
        found = [embeddings.weight] if output is None else [embeddings.weight, output.weight, output.bias]
        return [table for table in found if table is not None]

    ids = torch.tensor([id_ for piece in pieces for id_ in piece])
    starts = torch.tensor([0, *(len(piece) for piece in pieces[:-1])]).cumsum(0)
    means = [functional.embedding_bag(ids, table.detach().reshape(len(table), -1), starts) for table in tables()]
    with drawn_with(0):  # what is drawn is overwritten
        model.resize_token_embeddings(len(pieces), mean_resizing=False)
    with torch.no_grad():
        for table, mean in zip(tables(), means, strict=True):
            table.copy_(mean.reshape(table.shape))
    model.config.pad_token_id = model.get_input_embeddings().padding_idx = pad_id


def freeze_all_but_pooler(model: MaskedLMWithPooler) -> None:
    """Leave the pooler trainable, and the MLM head's own layers where they were drawn fresh because it was missing.

    The head's output layer is tied to the word embeddings, and stays as these do.
    """
    model.requires_grad_(False)
    model.pooling_layer.requires_grad_(True)
    missing = model.loading_info["missing_keys"]
    for name, parameter in model.named_parameters():  # names a tied parameter once, as the embeddings'
        if model.family.in_mlm_head(name) and name in missing:
            parameter.requires_grad_(True)


def load_encoder(path: str, seed: int = 0, pooler_required: bool = True) -> tuple[Any, str]:
    """Load an encoder for stage 2 in train mode and check that what is in memory is what is on disk.

    Args:
        path: a folder or hub name.
        seed: draws the pooler where the checkpoint has none.
        pooler_required: refuse a checkpoint without a pooler.

    Returns:
        The family's own body, with a module `pooler` in each family, and the status of its pooler in words (see
        `pooler_status`).

    Raises:
        UserError: no encoder of a known family in safetensors there, keys are missing or unexpected (both sides are
            listed), or weights are not finite.
    """
    family = check_family(path)
    with drawn_with(seed):
        try:
            model, info = body_with_pooler(family).from_pretrained(
                path, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"encoder={path}: no {family.name} encoder could be loaded from it ({error})") from error
    missing = set(info["missing_keys"]) - (set() if pooler_required else POOLER_KEYS)
    unexpected = {key for key in info["unexpected_keys"] if not family.is_unread(key)}
    if missing or unexpected:
        raise UserError(
            f"encoder={path} does not fit a {family.name} encoder with its pooler.\n"
            f"  missing: {', '.join(sorted(missing)) or 'none'}\n"
            f"  unexpected: {', '.join(sorted(unexpected)) or 'none'}"
        )
    check_finite(model, path)
    has_pooler = not POOLER_KEYS & set(info["missing_keys"])
    if has_pooler:
        check_pooler(model, weights_file(path), family)
    return model.train(), pooler_status(path, model, has_pooler)


@dataclass
class PoolerAlone:
    """What is left of an encoder whose states are kept.

    Attributes:
        config: the encoder's.
        pooler: its pooler; None once a classifier has taken it.
    """

    config: PreTrainedConfig
    pooler: nn.Module | None


def load_pooler(path: str) -> tuple[PoolerAlone, str]:
    """The pooler of a checkpoint that has one, as `load_encoder` loads it, and its status; no other tensor is read."""
    family = check_family(path)
    config = family.body.config_class.from_pretrained(path)
    with drawn_with(0):  # what is drawn is overwritten
        pooler = Pooler(config)
    tensors = pooler_tensors(weights_file(path), family)
    pooler.load_state_dict({key.removeprefix("pooler."): tensor for key, tensor in tensors.items()})
    alone = PoolerAlone(config, pooler)
    return alone, pooler_status(path, alone, has_pooler=True)


def reinitialise(body: Any, pooler: bool, layers: Iterable[int], seed: int) -> None:
    """Draw parts of a body anew with `seed`, by its family's own law (Zhang et al. 2021, section 4).

    Args:
        body: as `load_encoder` gives it.
        pooler: whether its pooler is drawn; then it is what `cls_linear` draws with this seed.
        layers: the numbers of the layers that are drawn, from 1 to K.
        seed: of all of these. The pooler's place in its stream is kept where it is not drawn.
    """
    every = body.get_submodule(family_of(body.config).layers)
    with drawn_with(seed):
        dense = fresh_dense(body.config.hidden_size, body.config.initializer_range)
        if pooler:
            body.pooler.dense.load_state_dict(dense.state_dict())
        for number in layers:
            for parameter in every[number - 1].parameters():
                parameter._is_hf_initialized = False  # transformers draws nothing that it has loaded
            every[number - 1].apply(body._init_weights)


def check_finite(model: nn.Module, place: str | Path) -> None:
    """Raise a UserError if a weight is not finite; `place` is where the model lies, or is about to."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"{place}: the weights are not finite: training diverged; lower the learning rate")


def check_pooler(body: Any, file: Path, family: Family) -> None:
    """Raise an AssertionError unless the pooler of a body in memory equals the one in the safetensors file."""
    for key, on_disk in pooler_tensors(file, family).items():
        if not torch.equal(body.get_parameter(key).detach().cpu(), on_disk):
            raise AssertionError(f"{key} in memory differs from {file}")


def pooler_tensors(file: Path, family: Family) -> dict[str, Tensor]:
    """Weight (H, H) and bias (H,) of the pooler in a safetensors file, in fp32, by their names in a body."""
    with safe_open(file, framework="pt") as tensors:
        names = {name.removeprefix(family.prefix): name for name in tensors.keys()}  # noqa: SIM118
        return {key: tensors.get_tensor(names[key]).to(torch.float32) for key in sorted(POOLER_KEYS)}


def pooler_status(path: str, body: Any, has_pooler: bool) -> str:
    """The pooler in one or two words, for every table it appears in.

    `trained`, `stale` or `random` as an export of stage 1 says in its provenance; else `random` where the
    checkpoint has none, `never trained` where it is as initialisation leaves it, and `as released` otherwise.
    """
    if not has_pooler:
        return "random"
    noted = provenance_of(Path(path))
    if noted:
        return str(noted["pooler_status"])
    return foreign_status(body)


def foreign_status(body: Any) -> str:
    """The status of the pooler of a body that stage 1 noted nothing of."""
    dense = body.pooler.dense
    return "never trained" if never_trained(dense.weight, dense.bias) else "as released"


def export(
    model: MaskedLMWithPooler,
    tokenizer: PreTrainedTokenizerBase,
    provenance: dict[str, Any],
    card: str,
    folder: Path,
) -> None:
    """Write the checkpoint so that it appears whole or not at all, and check that stage 2 finds it all.

    The folder holds config, safetensors weights, tokenizer files, `provenance.json` and a model card. Its
    `architectures` entry names a class that every transformers installation has.

    Raises:
        UserError: weights are not finite, what was written does not load without a missing key, or the folder
            cannot be written.
    """
    check_finite(model, folder)
    try:
        with draft_folder_of(folder) as draft:
            model.save_pretrained(draft)
            config = json.loads((draft / "config.json").read_text())
            config["architectures"] = [model.family.masked_lm.__name__]
            (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            tokenizer.save_pretrained(draft)
            noted = {**provenance, WEIGHTS_HASH: file_hash(draft / WEIGHTS_FILE)}
            (draft / PROVENANCE_FILE).write_text(json.dumps(noted, indent=2) + "\n")
            (draft / "README.md").write_text(card)
            write_sums(draft)
            load_encoder(str(draft), seed=0, pooler_required=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the export could not be written to {folder}: {error}") from error
