"""The families of encoders: where each keeps its body, its MLM head and its pooler. One row each.

Shapes: B texts, T tokens, H hidden size, V vocabulary, N places; `...` stands for any dimensions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    BertModel,
    DistilBertForMaskedLM,
    DistilBertModel,
    ModernBertForMaskedLM,
    ModernBertModel,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bert.modeling_bert import BertOnlyMLMHead
from transformers.models.roberta.modeling_roberta import RobertaLMHead
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLMHead

from poolwise.settings import UserError

POOLER_KEYS = {"pooler.dense.weight", "pooler.dense.bias"}
"""Where the pooler lies in a body; in a family whose body has none, ours lies in the checkpoint under these names."""

OTHER_HEADS = ("classifier", "dropout", "pre_classifier", "qa_outputs")
"""Heads of other tasks, which both stages leave aside."""


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        name: as people write it.
        masked_lm: the family's own model for MLM, whose names of tensors an export has.
        body: the family's own encoder, which `AutoModel` loads.
        mlm_head: the names of the modules of the MLM head in `masked_lm`.
        mlm_logits: from an object that has these modules, and states (..., H), to logits (..., V).
        head_beside_pooler: makes the MLM head's module where `body` has a pooler of its own; None where it has none.
        layers: where in the body the list of its layers lies.
        after_attention: where in a layer the first module lies of which each row of what is given to it, and of all
            that follows, stands for one token alone; None where a layer adds to what was there before it.
        dropouts: names in the config of the dropout probabilities that act in stage 1, that of a layer's output first.
        feed_forward_size: name in the config of the size of a layer's inner dense layer.
        has_token_types: whether the body tells a second segment by `token_type_ids`, if its config has two types.
        has_position_embeddings: whether positions enter with the embeddings, not in each layer's attention.
        positions_follow_padding: whether positions are counted from the padding id on, as in fairseq.
    """

    name: str
    masked_lm: type[PreTrainedModel]
    body: type[PreTrainedModel]
    mlm_head: tuple[str, ...]
    mlm_logits: Callable[[Any, Tensor], Tensor]
    head_beside_pooler: Callable[[Any], nn.Module] | None = None
    layers: str = "encoder.layer"
    after_attention: str | None = "attention.output"
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    feed_forward_size: str = "intermediate_size"
    has_token_types: bool = True
    has_position_embeddings: bool = True
    positions_follow_padding: bool = False

    @property
    def has_pooler(self) -> bool:
        """Whether the body has a pooler of its own, so that `AutoModel` finds ours."""
        return self.head_beside_pooler is not None

    @property
    def prefix(self) -> str:
        """What the names of the body's tensors begin with in an export."""
        return f"{self.masked_lm.base_model_prefix}."

    @property
    def pooler_keys(self) -> set[str]:
        """The names of the pooler's tensors in an export."""
        return {self.prefix + key for key in POOLER_KEYS} if self.has_pooler else POOLER_KEYS

    @property
    def hidden_pooler(self) -> str:
        """What a reader must know of a pooler that `AutoModel` does not load; empty where it does."""
        if self.has_pooler:
            return ""
        return (
            f"{self.name} has no pooler of its own, so AutoModel will not see ours: it lies in model.safetensors as "
            f"{' and '.join(sorted(POOLER_KEYS, reverse=True))}; poolwise.encoder.load_encoder(FOLDER) loads it"
        )

    def in_mlm_head(self, key: str) -> bool:
        """Whether a tensor of this name is the MLM head's."""
        return key.split(".")[0] in self.mlm_head

    def layer_of(self, key: str) -> int | None:
        """The layer that a tensor of this name in the body is of: 1 to K, 0 for the embeddings.

        None for what lies above the layers: the pooler, and ModernBERT's final norm.
        """
        if key.startswith("embeddings."):
            return 0
        number = key.removeprefix(f"{self.layers}.").split(".")[0]
        return int(number) + 1 if key.startswith(f"{self.layers}.") else None

    def is_unread(self, key: str) -> bool:
        """Whether stage 2 leaves a tensor aside: heads, and buffers of old releases."""
        return self.in_mlm_head(key) or key.split(".")[0] in OTHER_HEADS or key.endswith("position_ids")

    def dropout(self, config: PreTrainedConfig) -> list[float]:
        """The dropout probabilities that act in stage 1, that of a layer's output first."""
        return [float(getattr(config, name)) for name in self.dropouts]

    def tells_segments(self, config: PreTrainedConfig) -> bool:
        """Whether the body tells a second segment by `token_type_ids`; else the separator alone does."""
        return self.has_token_types and config.type_vocab_size > 1

    @property
    def can_leave_out_padding(self) -> bool:
        """Whether positions can be told to the body, and each token attends to its whole text (ModernBERT: neither)."""
        return self.has_position_embeddings

    def first_position(self, config: PreTrainedConfig) -> int:
        """The position of a text's first token."""
        return int(config.pad_token_id) + 1 if self.positions_follow_padding else 0

    def longest_text(self, config: PreTrainedConfig) -> int:
        """How many positions there are for tokens, special ones counted."""
        return int(config.max_position_embeddings) - self.first_position(config)


def _roberta(name: str, masked_lm: type[PreTrainedModel], body: type[PreTrainedModel], head: Any) -> Family:
    return Family(
        name,
        masked_lm,
        body,
        mlm_head=("lm_head",),
        mlm_logits=lambda model, states: model.lm_head(states),
        head_beside_pooler=head,
        positions_follow_padding=True,
    )


def _distilbert_logits(model: Any, states: Tensor) -> Tensor:
    transformed = model.vocab_layer_norm(model.activation(model.vocab_transform(states)))
    logits: Tensor = model.vocab_projector(transformed)
    return logits


FAMILIES: dict[str, Family] = {
    "bert": Family(
        "BERT",
        BertForMaskedLM,
        BertModel,
        mlm_head=("cls",),
        mlm_logits=lambda model, states: model.cls(states),
        head_beside_pooler=BertOnlyMLMHead,
    ),
    "roberta": _roberta("RoBERTa", RobertaForMaskedLM, RobertaModel, RobertaLMHead),
    "xlm-roberta": _roberta("XLM-RoBERTa", XLMRobertaForMaskedLM, XLMRobertaModel, XLMRobertaLMHead),
    "distilbert": Family(
        "DistilBERT",
        DistilBertForMaskedLM,
        DistilBertModel,
        mlm_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        mlm_logits=_distilbert_logits,
        layers="transformer.layer",
        after_attention="sa_layer_norm",
        dropouts=("dropout", "attention_dropout"),
        feed_forward_size="hidden_dim",
        has_token_types=False,
    ),
    "modernbert": Family(
        "ModernBERT",
        ModernBertForMaskedLM,
        ModernBertModel,
        mlm_head=("head", "decoder"),
        mlm_logits=lambda model, states: model.decoder(model.head(states)),
        layers="layers",
        after_attention=None,
        dropouts=("mlp_dropout", "attention_dropout", "embedding_dropout"),
        has_token_types=False,
        has_position_embeddings=False,
    ),
}
"""The rows, by `model_type` in `config.json`."""


def family_named(model_type: str, place: str) -> Family:
    """The row of a `model_type`; `place` is where it was read.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    if model_type not in FAMILIES:
        known = ", ".join(f"{family.name} ({kind})" for kind, family in FAMILIES.items())
        raise UserError(f"{place} holds a {model_type or 'nameless'} model (config.json); supported families: {known}")
    return FAMILIES[model_type]


def family_of(config: PreTrainedConfig) -> Family:
    """The row of a config."""
    return family_named(config.model_type, "the config")


def first_places(input_ids: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Where token 0 of each text lies among the positions of a batch, row by row."""
    return torch.arange(0, input_ids.numel(), input_ids.shape[1], device=input_ids.device)


@contextmanager
def last_layer_at(body: Any, places: Int[Tensor, " N"]) -> Iterator[None]:
    """Have passes of a body compute the last layer, after its attention, at N places alone of the B T ones.

    What is read of it are few states: those at masked positions, or of token 0. Each is as in a whole pass. The last
    states are then (1, N, H), and no pooler output is one of a text.

    Args:
        body: of a family with `after_attention`.
        places: among the positions of a batch, row by row.
    """
    family = family_of(body.config)
    assert family.after_attention is not None
    layer = body.get_submodule(family.layers)[-1]

    def chosen(_: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(each.flatten(0, 1).index_select(0, places).unsqueeze(0) for each in states)

    hook = layer.get_submodule(family.after_attention).register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        hook.remove()


class Pooler(nn.Module):
    """`tanh(Linear(h_cls))`, as `BertPooler` is, for families that have none."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Float[Tensor, "B T H"]) -> Float[Tensor, "B H"]:
        """The last layer's states (B, T, H) to vectors (B, H), each unit in [-1, 1]."""
        return torch.tanh(self.dense(states[:, 0]))


class BodyWithPooler(PreTrainedModel):  # type: ignore[misc]
    """What a family's own body becomes that has no pooler: `pooler_output` beside `last_hidden_state`."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.pooler: Pooler | None = Pooler(config)

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The body's own output with `pooler_output` (B, H); None there if the pooler was taken away."""
        output = super().forward(*args, **kwargs)
        pooled = None if self.pooler is None else self.pooler(output.last_hidden_state)
        return BaseModelOutputWithPooling(pooler_output=pooled, **output)


@cache
def body_with_pooler(family: Family) -> type[PreTrainedModel]:
    """The family's own body, if it has a pooler; else one with ours, found in the checkpoint under `POOLER_KEYS`."""
    if family.has_pooler:
        return family.body
    return type(f"{family.body.__name__}WithPooler", (BodyWithPooler, family.body), {"__module__": __name__})
