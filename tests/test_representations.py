from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from helpers import REPOSITORY
from poolwise.encoder import reinitialise
from poolwise.representations import (
    REPRESENTATIONS,
    ClsLinear,
    EncoderShape,
    PoolerOutput,
    label_of,
    material_of,
    representation_class,
    settled,
)
from poolwise.settings import UserError
from poolwise.stages.sentiment import SentimentClassifier

SHORT = torch.tensor([[2, 7, 8, 3]])
PADDED = torch.tensor([[2, 7, 8, 3, 0, 0, 0], [2, 9, 10, 11, 12, 13, 3]])
H, L = 4, 5
SHAPE = EncoderShape(hidden_size=H, layers=L, initializer_range=0.02)
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
LAYERS = [(name, layer) for name, kind in sorted(REPRESENTATIONS.items()) for layer in range(kind.lowest_layer, L + 1)]
"""Each representation with each layer that may stand for the last of five."""


@pytest.fixture
def deep(config: BertConfig) -> BertConfig:
    config.num_hidden_layers = L
    return config


def classifier(config, name: str, layer: int | None = None) -> SentimentClassifier:
    torch.manual_seed(3)
    encoder = BertModel(config)
    representation = REPRESENTATIONS[name](EncoderShape.of(config), layer=layer)
    return SentimentClassifier(encoder, representation, classes=2, dropout=0.1)


def states_of(layers: int = L) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, 3, H) for _ in range(layers + 1))


def doubled(hidden: torch.Tensor) -> torch.Tensor:
    """Stands for a pooler."""
    return hidden[:, 0] * 2


def with_drawn_parameters(representation: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for parameter in representation.parameters():
        torch.nn.init.normal_(parameter)
    return representation


def batch_of(ids: torch.Tensor) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "windows": [1] * len(ids)}


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_text_has_the_same_vector_alone_and_in_a_padded_batch(deep, name, layer):
    built = classifier(deep, name, layer).eval()
    with_drawn_parameters(built.representation)
    alone = built.vectors(batch_of(SHORT))
    together = built.vectors(batch_of(PADDED))
    torch.testing.assert_close(alone[0], together[0])
    assert alone.shape == (1, built.representation.dimension)
    same_in_every_text = layer == 0 and name in ("cls", "pooler", "cls_linear", "layer_mix", "cls_scaled")
    assert torch.equal(together[0], together[1]) == same_in_every_text


@pytest.mark.parametrize("padding", [1e4, -1e4])
@pytest.mark.parametrize("name", sorted(REPRESENTATIONS))
def test_what_stands_in_padding_does_not_matter(name, padding):
    built = with_drawn_parameters(REPRESENTATIONS[name](SHAPE))
    states = states_of()
    changed = tuple(state.masked_fill(MASK.unsqueeze(-1) == 0, padding) for state in states)
    assert torch.equal(built(states, MASK, doubled), built(changed, MASK, doubled))


def test_formulas_hold_on_plain_tensors():
    states = states_of()
    last = states[-1]
    kinds = {name: with_drawn_parameters(kind(SHAPE)) for name, kind in REPRESENTATIONS.items()}
    found = {name: kind(states, MASK, doubled) for name, kind in kinds.items()}
    lengths = (2, 3)

    def a_text_each(formula):
        """A formula of one text's states without padding, layers first: (L + 1, T, H) to (D,)."""
        return torch.stack([formula(torch.stack(states)[:, row, :length]) for row, length in enumerate(lengths)])

    def attended(text):
        scores = [
            sum(text[-1, t, unit] * kinds["attention"].query[unit] for unit in range(H)) for t in range(len(text[0]))
        ]
        weights = [score.exp() / sum(other.exp() for other in scores) for score in scores]
        return sum(weight * text[-1, t] for t, weight in enumerate(weights))

    dense, mix, slices = kinds["cls_linear"].dense, kinds["layer_mix"], kinds["cls_scaled"].factors
    shares = mix.weights.exp() / mix.weights.exp().sum()
    expected = {
        "cls": last[:, 0],
        "pooler": last[:, 0] * 2,
        "mean": a_text_each(lambda text: text[-1].mean(dim=0)),
        "cls_linear": torch.tanh(last[:, 0] @ dense.weight.T + dense.bias),
        "max": a_text_each(lambda text: text[-1].max(dim=0).values),
        "mean_first_last": a_text_each(lambda text: (text[1].mean(dim=0) + text[5].mean(dim=0)) / 2),
        "cls_last4": torch.cat([states[2][:, 0], states[3][:, 0], states[4][:, 0], states[5][:, 0]], dim=1),
        "mean_last4": a_text_each(lambda text: text[2:].mean(dim=(0, 1))),
        "cls_mean": a_text_each(lambda text: torch.cat([text[-1, 0], text[-1].mean(dim=0)])),
        "layer_mix": mix.scale * sum(share * state[:, 0] for share, state in zip(shares, states, strict=True)),
        "attention": a_text_each(attended),
        "mean_scaled": a_text_each(lambda text: text[-1].mean(dim=0) * kinds["mean_scaled"].factors),
        "cls_scaled": last[:, 0] * slices[[0, 1, 3, 5]],  # 7 slices of 4 units: the 3 others hold none
    }
    assert found.keys() == expected.keys()
    for name, vectors in expected.items():
        torch.testing.assert_close(found[name], vectors, msg=lambda told, name=name: f"{name}: {told}")
        assert found[name].shape == (2, kinds[name].dimension)


def test_values_worked_out_by_hand():
    """One text of two tokens and one of one, with one unit and two layers."""
    states = tuple(torch.tensor(values).reshape(2, 2, 1) for values in ([8.0, 0, 2, 9], [1.0, 3, 4, 9], [5.0, 9, 6, 9]))
    mask = torch.tensor([[1, 1], [1, 0]])
    expected = {
        "cls": [[5.0], [6]],
        "mean": [[7.0], [6]],
        "max": [[9.0], [6]],
        "mean_first_last": [[4.5], [5]],
        "cls_mean": [[5.0, 7], [6, 6]],
        "layer_mix": [[14 / 3], [4]],
        "attention": [[7.0], [6]],
        "mean_scaled": [[7.0], [6]],
        "cls_scaled": [[5.0], [6]],
    }
    for name, vectors in expected.items():
        found = REPRESENTATIONS[name](EncoderShape(1, 2, 0.02))(states, mask, None)
        torch.testing.assert_close(found, torch.tensor(vectors), msg=name)
    attention = REPRESENTATIONS["attention"](EncoderShape(1, 2, 0.02))
    attention.query.data.fill_(torch.tensor(3.0).log() / 4)  # 5 w and 9 w are log 3 apart: weights 1/4 and 3/4
    torch.testing.assert_close(attention(states, mask, None), torch.tensor([[8.0], [6]]))


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_layer_stands_for_the_last_as_if_those_above_were_not_there(name, layer):
    states = states_of()
    found = with_drawn_parameters(REPRESENTATIONS[name](SHAPE, layer=layer))
    cut = with_drawn_parameters(REPRESENTATIONS[name](EncoderShape(H, layer, 0.02)))
    assert torch.equal(found(states, MASK, doubled), cut(states[: layer + 1], MASK, doubled))
    assert ("stands for the last" in found.formula_here) == (layer < L)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("cls", 6, "repr.layer=6: this encoder has 5 layers; allowed with repr=cls: 0 to 5, or null for the last"),
        ("cls", -1, "repr.layer=-1: this encoder has 5 layers; allowed with repr=cls: 0 to 5"),
        ("mean_first_last", 0, "repr.layer=0: this encoder has 5 layers; allowed with repr=mean_first_last: 1 to 5"),
        ("cls_last4", 3, "repr.layer=3: this encoder has 5 layers; allowed with repr=cls_last4: 4 to 5"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(name, layer, message):
    for refuse in (
        lambda: REPRESENTATIONS[name](SHAPE, layer=layer),
        lambda: settled({"name": name, "layer": layer}, L),
    ):
        with pytest.raises(UserError) as error:
            refuse()
        assert message in str(error.value)


@pytest.mark.parametrize("name", ["cls_last4", "mean_last4"])
def test_four_layers_are_not_read_of_three(name):
    with pytest.raises(UserError, match=f"repr={name}: reads 4 layers, and this encoder has 3"):
        REPRESENTATIONS[name](EncoderShape(H, 3, 0.02))


def test_states_of_all_layers_are_asked_of_the_encoder_only_where_they_are_needed(deep):
    needing = {"mean_first_last", "cls_last4", "mean_last4", "layer_mix"}
    for name in REPRESENTATIONS:
        for layer, needed in ((None, name in needing), (L, name in needing), (4, True)):
            built = classifier(deep, name, layer)
            asked = []
            built.encoder.register_forward_pre_hook(
                lambda module, positional, named, asked=asked: asked.append(named.get("output_hidden_states", False)),
                with_kwargs=True,
            )
            built.vectors(batch_of(SHORT))
            assert asked == [needed], (name, layer)


def test_states_that_are_not_given_are_missed():
    with pytest.raises(ValueError, match="cls needs the states of the embeddings and 5 layers, and 1 were given"):
        REPRESENTATIONS["cls"](SHAPE, layer=4)(states_of(0), MASK, None)


def test_the_hidden_states_are_left_as_they_were():
    states = states_of()
    before = [state.clone() for state in states]
    for kind in REPRESENTATIONS.values():
        kind(SHAPE)(states, MASK, doubled)
    assert all(torch.equal(state, old) for state, old in zip(states, before, strict=True))


def test_a_pooler_drawn_again_equals_cls_linear_bit_for_bit(config):
    encoder = BertModel(config)
    reinitialise(encoder, pooler=True, layers=(), seed=11)
    torch.manual_seed(11)
    own = ClsLinear(EncoderShape.of(config))
    states, mask = torch.randn(5, 3, config.hidden_size), torch.ones(5, 3, dtype=torch.long)
    pooled = PoolerOutput(EncoderShape.of(config))((states,), mask, encoder.pooler)
    assert torch.equal(pooled, own((states,), mask, None))


def test_parameters_that_a_representation_adds(deep):
    width = deep.hidden_size
    added = {name: classifier(deep, name).parameters_of_vectors for name in REPRESENTATIONS}
    dense = width * (width + 1)
    assert {name: count for name, count in added.items() if count} == {
        **{"pooler": dense, "cls_linear": dense},
        **{"layer_mix": L + 2, "cls_scaled": L + 2, "attention": width, "mean_scaled": width},
    }
    everything = {name: sum(p.numel() for p in classifier(deep, name).parameters()) for name in REPRESENTATIONS}
    wider = {"cls_last4": 3 * width * 2, "cls_mean": width * 2}  # of the head, for two classes
    assert everything == {name: everything["cls"] + added[name] + wider.get(name, 0) for name in REPRESENTATIONS}


@pytest.mark.parametrize("layer", [None, 0, 3])
@pytest.mark.parametrize(
    ("name", "control"), [("pooler", "cls_linear"), ("layer_mix", "cls_scaled"), ("attention", "mean_scaled")]
)
def test_a_control_has_equally_many_parameters(deep, name, control, layer):
    one, other = (classifier(deep, kind, layer) for kind in (name, control))
    assert one.parameters_of_vectors == other.parameters_of_vectors > 0
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in other.parameters())


def test_learned_ones_are_those_with_parameters_of_their_own():
    assert {name for name, kind in REPRESENTATIONS.items() if kind.learned} == {
        name for name, kind in REPRESENTATIONS.items() if list(kind(SHAPE).parameters())
    }


def test_slices_of_units_are_of_the_same_size_but_for_one():
    control = REPRESENTATIONS["cls_scaled"](EncoderShape(384, 6, 0.02))
    assert sorted(control.slice_of_unit.bincount().tolist()) == [48] * 8
    control = REPRESENTATIONS["cls_scaled"](EncoderShape(768, 12, 0.02))
    assert set(control.slice_of_unit.bincount().tolist()) == {54, 55}


def test_attention_and_the_controls_begin_as_what_they_are_held_against(deep):
    logits = {
        name: classifier(deep, name).eval()(batch_of(PADDED))
        for name in ("cls", "mean", "attention", "mean_scaled", "cls_scaled")
    }
    torch.testing.assert_close(logits["attention"], logits["mean"])
    assert torch.equal(logits["mean_scaled"], logits["mean"])
    assert torch.equal(logits["cls_scaled"], logits["cls"])


def test_pooler_without_a_pooler_is_refused():
    with pytest.raises(ValueError, match="needs the encoder's pooler"):
        PoolerOutput(SHAPE)((torch.randn(1, 2, 4),), torch.ones(1, 2, dtype=torch.long), None)


def test_each_has_a_formula_and_a_config_file():
    assert len({kind.formula for kind in REPRESENTATIONS.values()}) == len(REPRESENTATIONS)
    files = {file.stem: yaml.safe_load(file.read_text()) for file in Path(REPOSITORY, "conf/repr").glob("*.yaml")}
    assert files == {name: {"name": name, "layer": None} for name in REPRESENTATIONS}


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UserError, match="allowed: attention, cls, cls_last4, cls_linear, cls_mean, cls_scaled, layer_mix"
    ):
        representation_class("maximum")


def test_settings_that_are_null_leave_key_and_name_as_they_were_without_settings():
    for name in REPRESENTATIONS:
        assert material_of({"name": name, "layer": None}) == label_of({"name": name, "layer": None}) == name
    assert material_of({"name": "mean", "layer": 0}) == {"name": "mean", "layer": 0}
    assert label_of({"name": "mean", "layer": 0}) == "mean@layer0"


def test_the_last_layer_by_its_number_is_the_last():
    assert settled({"name": "mean", "layer": L}, L) == {"name": "mean", "layer": None}
    assert settled({"name": "mean", "layer": L - 1}, L) == {"name": "mean", "layer": L - 1}
