"""Sentence representations: from hidden states and pooler to one vector per text. One class each.

The keyword-only arguments of a class (and of `Representation`) are the keys of its file in `conf/repr/`.

Shapes: B texts, T tokens, H hidden size, D vector size, L layers; K is the layer that stands for the last.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from poolwise.encoder import fresh_dense
from poolwise.settings import Bounds, UserError

HiddenStates = Sequence[Float[Tensor, "B T H"]]
Mask = Int[Tensor, "B T"]
Vectors = Float[Tensor, "B H"]
Pooler = Callable[[Float[Tensor, "B T H"]], Float[Tensor, "B H"]]
Layer = Annotated[int | None, Bounds(at_least=0.0)]


@dataclass(frozen=True)
class EncoderShape:
    """What a representation must know of the encoder: H, L, and the deviation by which its dense layers are drawn."""

    hidden_size: int
    layers: int
    initializer_range: float

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "EncoderShape":
        """The shape that a config of any family says."""
        return cls(config.hidden_size, config.num_hidden_layers, config.initializer_range)


@dataclass(frozen=True)
class StoredStates:
    """What is kept of one layer's states of B texts once they have been read, each kind fetched when it is asked for.

    Attributes:
        fetch: from the name of a kind to (B, H).
    """

    fetch: Callable[[str], Vectors]

    @property
    def first(self) -> Vectors:
        """Token 0's."""
        return self.fetch("first")

    @property
    def mean(self) -> Vectors:
        """The mean over tokens, padding left out."""
        return self.fetch("mean")

    @property
    def max(self) -> Vectors:
        """The maximum of each unit over tokens, padding left out."""
        return self.fetch("max")


@dataclass(frozen=True)
class TokenStates:
    """One layer's states of B texts, (B, T, H), and their mask; what `StoredStates` holds is computed when asked."""

    states: Float[Tensor, "B T H"]
    mask: Mask

    @property
    def first(self) -> Vectors:
        """Token 0's."""
        return self.states[:, 0]

    @property
    def mean(self) -> Vectors:
        """The mean over the tokens of a text; the same alone and in a padded batch."""
        weights = self.mask.unsqueeze(-1).to(self.states.dtype)
        return (self.states * weights).sum(dim=1) / weights.sum(dim=1)

    @property
    def max(self) -> Vectors:
        """The maximum of each unit; tokens with the same maximum share its gradient."""
        return self.states.masked_fill(self.mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)


Layers = Sequence[TokenStates | StoredStates]


FACTORS_LEARNING_RATE = 1e-2
"""AdamW moves a number by about its learning rate a step: in a thousand steps at 5e-5 the weights of a mix would stay
within 5 % of alike. At this one they can leave one layer of thirteen within some 300 steps."""


class Representation(nn.Module, ABC):
    """The map from hidden states, mask and pooler to one vector per text. A subclass enters `REPRESENTATIONS`.

    Attributes:
        name: as in `repr=`.
        formula: what is computed, kept in each run record, because names differ between systems; h is the last layer's
            states, h_l layer l's, m the mask.
        uses_pooler: whether the encoder's pooler is read; where it is not, stage 2 trains without one.
        learned: whether it has parameters of its own, which stage 2 begins and trains.
        drawn: whether these parameters begin at random.
        learning_rate: of these parameters where stage 2's is too small for them: factors of whole states, which an
            encoder's rate would leave where they begin; null for stage 2's.
        reads_tokens: whether it needs the states of all tokens, so that `StoredStates` will not do.
        reads_first_alone: whether it needs no state but token 0's.
        reads_lower_layers: whether it reads layers below the last one too.
        lowest_layer: the lowest that may stand for the last.
        states_side_by_side: how many states make up the vector: D / H.
        layers: L.
        layer: K, the one that stands for the last: from 0, the embeddings, to L.
        dimension: D, the size of the vector.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    uses_pooler: ClassVar[bool] = False
    learned: ClassVar[bool] = False
    drawn: ClassVar[bool] = False
    learning_rate: ClassVar[float | None] = None
    reads_tokens: ClassVar[bool] = False
    reads_first_alone: ClassVar[bool] = False
    reads_lower_layers: ClassVar[bool] = False
    lowest_layer: ClassVar[int] = 0
    states_side_by_side: ClassVar[int] = 1

    def __init__(self, encoder: EncoderShape, *, layer: Layer = None) -> None:
        """Args:
        encoder: its sizes.
        layer: the one that stands for the last; null for the last itself.

        Raises:
            UserError: this encoder has no such layer, or too few below it.
        """
        super().__init__()
        self.layers = encoder.layers
        self.layer = self.which_layer(encoder.layers, layer)
        self.dimension = self.states_side_by_side * encoder.hidden_size

    @classmethod
    def which_layer(cls, layers: int, layer: int | None) -> int:
        """The number of the layer that stands for the last, of an encoder of so many `layers`.

        Raises:
            UserError: it has no such layer, or too few below it.
        """
        if layers < cls.lowest_layer:
            raise UserError(f"repr={cls.name}: reads {cls.lowest_layer} layers, and this encoder has {layers}")
        number = layers if layer is None else layer
        if not cls.lowest_layer <= number <= layers:
            raise UserError(
                f"repr.layer={layer}: this encoder has {layers} layers; allowed with repr={cls.name}: "
                f"{cls.lowest_layer} to {layers}, or null for the last"
            )
        return number

    @property
    def needs_all_states(self) -> bool:
        """Whether the states of all layers must be kept for it; else the last layer's are enough."""
        return self.reads_lower_layers or self.layer < self.layers

    @property
    def formula_here(self) -> str:
        """The formula, with the layer that stands for the last where that is another one."""
        moved = self.layer < self.layers
        return self.formula + (f"; layer {self.layer} of {self.layers} stands for the last" if moved else "")

    def forward(self, hidden_states: HiddenStates, attention_mask: Mask, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """One vector per text.

        Args:
            hidden_states: (B, T, H) each: the embeddings' and those of L layers in their order; the last layer's alone
                do where `needs_all_states` is false.
            attention_mask: (B, T), 1 at tokens, 0 at padding.
            pooler: maps the last layer's (B, T, H) to (B, H); None where `uses_pooler` is false.

        Raises:
            ValueError: states of other layers are needed and not there.
        """
        return self.of_layers([TokenStates(states, attention_mask) for states in hidden_states], pooler)

    def of_layers(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """As `forward`, of layers whose states may have been stored.

        Raises:
            ValueError: states of other layers are needed and not there.
        """
        if not self.needs_all_states:
            return self.pool(layers, pooler)
        if len(layers) != self.layers + 1:
            raise ValueError(
                f"the representation {self.name} needs the states of the embeddings and {self.layers} layers, and "
                f"{len(layers)} were given"
            )
        return self.pool(layers[: self.layer + 1], pooler)

    @abstractmethod
    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """As `forward`, of the states up to `layer`: K + 1 of them or the last alone."""


class Cls(Representation):
    """The last layer's state of token 0, raw."""

    name = "cls"
    formula = "h[0], the last layer's state of token 0 ([CLS]), without a dense layer"
    reads_first_alone = True

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H)."""
        return layers[-1].first


class PoolerOutput(Representation):
    """The encoder's own pooler, as stage 1 left it (`BertPooler` of transformers)."""

    name = "pooler"
    formula = "tanh(W h[0] + b) with the checkpoint's own pooler W, b"
    uses_pooler = True
    reads_first_alone = True

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H), each unit in [-1, 1].

        Raises:
            ValueError: no pooler was given.
        """
        if pooler is None:
            raise ValueError("the representation pooler needs the encoder's pooler")
        return pooler(layers[-1].first.unsqueeze(1))


class Mean(Representation):
    """The mean of the last layer's states over the tokens of a text, padding left out."""

    name = "mean"
    formula = "sum_t m[t] h[t] / sum_t m[t], the last layer's states over all tokens, padding left out (m)"

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H); the vector of a text is the same alone and in a padded batch."""
        return layers[-1].mean


class ClsLinear(Representation):
    """The pooler's shape and initialisation, but drawn fresh in stage 2."""

    name = "cls_linear"
    formula = "tanh(W h[0] + b) with W, b drawn fresh in stage 2"
    reads_first_alone = True
    learned = True
    drawn = True

    def __init__(self, encoder: EncoderShape, **shared: Any) -> None:
        """Args:
        encoder: its sizes.
        shared: as in `Representation`.
        """
        super().__init__(encoder, **shared)
        self.dense = fresh_dense(encoder.hidden_size, encoder.initializer_range)

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H), each unit in [-1, 1]."""
        return torch.tanh(self.dense(layers[-1].first))


class Max(Representation):
    """The maximum of each unit over the tokens of a text (the MAX strategy of Reimers & Gurevych 2019)."""

    name = "max"
    formula = "max_t h[t], unit by unit, the last layer's states over all tokens, padding left out"

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H)."""
        return layers[-1].max


class MeanFirstLast(Representation):
    """The mean over tokens and over the first and the last layer (`first-last-avg` of Su et al. 2021, BERT-whitening).

    The first layer is layer 1, not the embeddings, as in their code.
    """

    name = "mean_first_last"
    formula = "sum_t m[t] (h_1[t] + h[t]) / 2 / sum_t m[t], the states of the first and the last layer over all tokens"
    reads_lower_layers = True
    lowest_layer = 1

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) of each layer to (B, H)."""
        return (layers[1].mean + layers[-1].mean) / 2


class ClsLast4(Representation):
    """Token 0's states of the last four layers side by side ("Concat Last Four Hidden" of Devlin et al. 2019, table 7).

    There it is of every token, for labels of tokens.
    """

    name = "cls_last4"
    formula = "[h_(K-3)[0]; h_(K-2)[0]; h_(K-1)[0]; h_K[0]], token 0's states of the last four layers (K the last)"
    reads_lower_layers = True
    lowest_layer = 4
    states_side_by_side = 4

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) of each layer to (B, 4H), the last layer's last."""
        return torch.cat([layer.first for layer in layers[-4:]], dim=-1)


class MeanLast4(Representation):
    """The mean over tokens and over the last four layers.

    A quarter of "Sum Last Four Hidden" (Devlin et al. 2019, table 7), which is of every token there.
    """

    name = "mean_last4"
    formula = (
        "sum_t m[t] (h_(K-3)[t] + h_(K-2)[t] + h_(K-1)[t] + h_K[t]) / 4 / sum_t m[t], the states of the last four "
        "layers (K the last) over all tokens"
    )
    reads_lower_layers = True
    lowest_layer = 4

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) of each layer to (B, H)."""
        return torch.stack([layer.mean for layer in layers[-4:]]).mean(dim=0)


class ClsMean(Representation):
    """`cls` and `mean` side by side."""

    name = "cls_mean"
    formula = "[h[0]; sum_t m[t] h[t] / sum_t m[t]], cls and mean of the last layer side by side"
    states_side_by_side = 2

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, 2H)."""
        return torch.cat([layers[-1].first, layers[-1].mean], dim=-1)


class LayerMix(Representation):
    """Token 0's states of the embeddings and all layers, mixed by learned weights (Peters et al. 2018, equation 1).

    K + 2 parameters: a weight for each of K + 1 states, and a scale. It begins as their plain mean.
    """

    name = "layer_mix"
    formula = (
        "g sum_l softmax(s)_l h_l[0] over the embeddings (l = 0) and all layers up to the last, with g (at first 1) "
        "and s (at first 0) learned in stage 2"
    )
    learned = True
    learning_rate = FACTORS_LEARNING_RATE
    reads_lower_layers = True

    def __init__(self, encoder: EncoderShape, **shared: Any) -> None:
        """Args:
        encoder: its sizes.
        shared: as in `Representation`.
        """
        super().__init__(encoder, **shared)
        self.weights = nn.Parameter(torch.zeros(self.layer + 1))
        self.scale = nn.Parameter(torch.ones(1))

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) of each layer to (B, H)."""
        of_token_0 = torch.stack([layer.first for layer in layers], dim=-1)
        return self.scale * (of_token_0 * self.weights.softmax(dim=0)).sum(dim=-1)


class ClsScaled(Representation):
    """The control of `layer_mix`: as many parameters (K + 2), and one layer.

    Each of K + 2 slices of token 0's state, of the same size but for one unit, is multiplied by a learned factor. The
    head could do the same. It begins as `cls`.
    """

    slice_of_unit: Tensor
    name = "cls_scaled"
    formula = (
        "c h[0] with a factor c (at first 1) for each of K + 2 slices of units (K the last layer), learned in stage 2"
    )
    reads_first_alone = True
    learned = True
    learning_rate = FACTORS_LEARNING_RATE

    def __init__(self, encoder: EncoderShape, **shared: Any) -> None:
        """Args:
        encoder: its sizes.
        shared: as in `Representation`.
        """
        super().__init__(encoder, **shared)
        slices = self.layer + 2
        self.factors = nn.Parameter(torch.ones(slices))
        slice_of_unit = torch.arange(encoder.hidden_size) * slices // encoder.hidden_size
        self.register_buffer("slice_of_unit", slice_of_unit, persistent=False)

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H)."""
        return layers[-1].first * self.factors[self.slice_of_unit]


class Attention(Representation):
    """The mean of the states weighted by a learned query, H parameters; it begins as `mean`.

    The attention over words of Yang et al. 2016, without the dense layer before the query.
    """

    name = "attention"
    formula = (
        "sum_t a[t] h[t], a the softmax of w . h[t] over all tokens, padding left out, the last layer's states, with w "
        "(at first 0) learned in stage 2"
    )
    learned = True
    reads_tokens = True

    def __init__(self, encoder: EncoderShape, **shared: Any) -> None:
        """Args:
        encoder: its sizes.
        shared: as in `Representation`.
        """
        super().__init__(encoder, **shared)
        self.query = nn.Parameter(torch.zeros(encoder.hidden_size))

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H)."""
        last = layers[-1]
        assert isinstance(last, TokenStates)
        scores = (last.states @ self.query).masked_fill(last.mask == 0, -torch.inf)
        return (last.states * scores.softmax(dim=1).unsqueeze(-1)).sum(dim=1)


class MeanScaled(Representation):
    """The control of `attention`: as many parameters (H), and all tokens weigh the same.

    Each unit of the mean is multiplied by a learned factor. The head could do the same. It begins as `mean`.
    """

    name = "mean_scaled"
    formula = "c sum_t m[t] h[t] / sum_t m[t], mean times a factor c (at first 1) for each unit, learned in stage 2"
    learned = True

    def __init__(self, encoder: EncoderShape, **shared: Any) -> None:
        """Args:
        encoder: its sizes.
        shared: as in `Representation`.
        """
        super().__init__(encoder, **shared)
        self.factors = nn.Parameter(torch.ones(encoder.hidden_size))

    def pool(self, layers: Layers, pooler: Pooler | None) -> Float[Tensor, "B D"]:
        """(B, T, H) to (B, H)."""
        return self.factors * layers[-1].mean


def mean_over_windows(vectors: Float[Tensor, "R D"], windows: Sequence[int] | None) -> Float[Tensor, "B D"]:
    """One vector a text: the mean over those of its windows, which stand one after the other.

    As Sun et al. 2019, "How to Fine-Tune BERT for Text Classification", section 5.3.1, do it with their hierarchical
    method and mean pooling.

    Args:
        vectors: (R, D), one a window.
        windows: how many each of B texts has; None for one each.
    """
    if windows is None or len(vectors) == len(windows):
        return vectors
    return torch.stack([of_one_text.mean(dim=0) for of_one_text in torch.split(vectors, list(windows))])


REPRESENTATIONS: dict[str, type[Representation]] = {
    kind.name: kind
    for kind in (
        *(Cls, PoolerOutput, Mean, ClsLinear),
        *(Max, MeanFirstLast, ClsLast4, MeanLast4, ClsMean),
        *(LayerMix, ClsScaled, Attention, MeanScaled),
    )
}


def representation_class(name: str) -> type[Representation]:
    """The class of a representation.

    Raises:
        UserError: the name is unknown; the message lists the known ones.
    """
    if name not in REPRESENTATIONS:
        raise UserError(f"repr={name}: unknown; allowed: {', '.join(sorted(REPRESENTATIONS))}")
    return REPRESENTATIONS[name]


def build_representation(settings: Mapping[str, Any], encoder: EncoderShape) -> Representation:
    """Build the representation that `settings["name"]` names from the other settings.

    Raises:
        UserError: this encoder has no such layer.
    """
    arguments = {key: value for key, value in settings.items() if key != "name"}
    return representation_class(settings["name"])(encoder, **arguments)


def settled(settings: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The settings for an encoder of so many `layers`: with `layer` null where it is the last, as that is the same run.

    Raises:
        UserError: this encoder has no such layer.
    """
    number = representation_class(settings["name"]).which_layer(layers, settings["layer"])
    return {**settings, "layer": None if number == layers else number}


def material_of(settings: Mapping[str, Any]) -> str | dict[str, Any]:
    """The settings as plain data without those that are null; where none is left, the bare name.

    So keys of runs are the same as before there were settings.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    return str(given["name"]) if len(given) == 1 else given


def label_of(settings: Mapping[str, Any]) -> str:
    """How tables and names call a representation: its name, and what is set of it, such as `mean@layer3`."""
    given = [f"@{key}{value}" for key, value in settings.items() if key != "name" and value is not None]
    return "".join([settings["name"], *given])
