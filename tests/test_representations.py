from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertModel

from helpers import REPOSITORY
from poolwise.encoder import draw_dense
from poolwise.representations import REPRESENTATIONS, ClsLinear, PoolerOutput, representation_class
from poolwise.settings import UserError
from poolwise.stages.sentiment import SentimentClassifier

SHORT = torch.tensor([[2, 7, 8, 3]])
PADDED = torch.tensor([[2, 7, 8, 3, 0, 0, 0], [2, 9, 10, 11, 12, 13, 3]])


def classifier(config, name: str) -> SentimentClassifier:
    torch.manual_seed(3)
    encoder = BertModel(config)
    representation = REPRESENTATIONS[name](config.hidden_size, config.initializer_range)
    return SentimentClassifier(encoder, representation, classes=2, dropout=0.1)


@pytest.mark.parametrize("name", sorted(REPRESENTATIONS))
def test_a_text_has_the_same_vector_alone_and_in_a_padded_batch(config, name):
    built = classifier(config, name).eval()
    alone = built.vectors(SHORT, torch.ones_like(SHORT))
    together = built.vectors(PADDED, (PADDED != 0).long())
    torch.testing.assert_close(alone[0], together[0])
    assert alone.shape == (1, built.representation.dimension)


def test_formulas_hold_on_plain_tensors():
    torch.manual_seed(0)
    states, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]])
    kinds = {name: kind(4, 0.02) for name, kind in REPRESENTATIONS.items()}
    found = {name: kind((states,), mask, lambda hidden: hidden[:, 0] * 2) for name, kind in kinds.items()}
    torch.testing.assert_close(found["cls"], states[:, 0])
    torch.testing.assert_close(found["pooler"], states[:, 0] * 2)
    torch.testing.assert_close(found["mean"][0], states[0, :2].mean(dim=0))
    torch.testing.assert_close(found["mean"][1], states[1].mean(dim=0))
    dense = kinds["cls_linear"].dense
    torch.testing.assert_close(found["cls_linear"], torch.tanh(states[:, 0] @ dense.weight.T + dense.bias))


def test_mean_leaves_the_hidden_states_as_they_were():
    states, mask = torch.randn(1, 3, 4), torch.tensor([[1, 0, 0]])
    before = states.clone()
    REPRESENTATIONS["mean"](4, 0.02)((states,), mask, None)
    assert torch.equal(states, before)


def test_a_pooler_drawn_again_equals_cls_linear_bit_for_bit(config):
    encoder = BertModel(config)
    torch.manual_seed(11)
    draw_dense(encoder.pooler.dense, config.initializer_range)
    torch.manual_seed(11)
    torch.nn.Linear(config.hidden_size, config.hidden_size)  # what building ClsLinear's layer draws
    own = ClsLinear(config.hidden_size, config.initializer_range)
    torch.manual_seed(11)
    draw_dense(own.dense, config.initializer_range)
    states, mask = torch.randn(5, 3, config.hidden_size), torch.ones(5, 3, dtype=torch.long)
    pooled = PoolerOutput(config.hidden_size, config.initializer_range)((states,), mask, encoder.pooler)
    assert torch.equal(pooled, own((states,), mask, None))


def test_pooler_and_cls_linear_have_equally_many_parameters(config):
    counts = {name: sum(p.numel() for p in classifier(config, name).parameters()) for name in REPRESENTATIONS}
    assert counts["pooler"] == counts["cls_linear"]
    assert counts["cls"] == counts["mean"] == counts["pooler"] - config.hidden_size * (config.hidden_size + 1)


def test_pooler_without_a_pooler_is_refused():
    with pytest.raises(ValueError, match="needs the encoder's pooler"):
        PoolerOutput(4, 0.02)((torch.randn(1, 2, 4),), torch.ones(1, 2, dtype=torch.long), None)


def test_each_has_a_formula_and_a_config_file():
    assert len({kind.formula for kind in REPRESENTATIONS.values()}) == len(REPRESENTATIONS)
    files = {file.stem: yaml.safe_load(file.read_text()) for file in Path(REPOSITORY, "conf/repr").glob("*.yaml")}
    assert {stem: content["name"] for stem, content in files.items()} == {name: name for name in REPRESENTATIONS}


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="allowed: cls, cls_linear, mean, pooler"):
        representation_class("max")
