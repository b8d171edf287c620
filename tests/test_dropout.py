"""Dropout drawn four elements at a time, and attention with it."""

import copy

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from poolwise import dropout
from poolwise.dropout import QUICK, Dropout, attention, drop_quickly, dropped


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_asked_share_is_zero_and_the_rest_is_scaled_by_one_number(probability, dtype):
    torch.manual_seed(0)
    states = torch.ones(301, 333, dtype=dtype)  # no multiple of four
    found = dropped(states, probability)
    assert found.dtype == dtype
    share = float((found == 0).double().mean())
    assert abs(share - probability) <= 4 * (probability * (1 - probability) / states.numel()) ** 0.5
    if probability < 1:
        assert found[found != 0].unique().tolist() == [pytest.approx(1 / (1 - probability), rel=2**-8)]


def test_elements_fall_independently_of_each_other_and_of_their_place_in_a_draw():
    torch.manual_seed(1)
    zero = (dropped(torch.ones(40_000, 4), 0.25) == 0).double()
    assert torch.allclose(zero.mean(dim=0), torch.full((4,), 0.25).double(), atol=0.009)  # four deviations
    assert (torch.corrcoef(zero.T) - torch.eye(4)).abs().max() < 0.02
    assert abs(float((zero[1:, 3] * zero[:-1, 0]).mean()) - 0.0625) < 0.005  # neighbouring draws


def test_the_seed_decides_and_the_next_draw_differs():
    torch.manual_seed(7)
    first, second = dropped(torch.ones(64), 0.5), dropped(torch.ones(64), 0.5)
    torch.manual_seed(7)
    assert torch.equal(dropped(torch.ones(64), 0.5), first)
    assert not torch.equal(first, second)


def test_gradients_are_those_of_the_elements_that_were_kept():
    states = torch.randn(50, 30, requires_grad=True)
    found = dropped(states, 0.25)
    found.sum().backward()
    torch.testing.assert_close(states.grad, (found != 0) / 0.75)


def inputs(tokens=9, dtype=torch.float32):
    torch.manual_seed(3)
    return [torch.randn(2, 4, tokens, 16, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.fixture
def layer():
    module = nn.Identity()
    module.is_causal = False
    return module


def seen_keys(tokens):
    mask = torch.ones(2, 1, tokens, tokens, dtype=torch.bool)
    mask[1, :, :, 6:] = False
    return mask


def added(tokens):
    return torch.zeros(2, 1, tokens, tokens).masked_fill(~seen_keys(tokens), torch.finfo(torch.float32).min)


MASKS = {"all": lambda tokens: None, "bool": seen_keys, "added": added}
LONG = dropout.ROW_OF_SOFTMAX


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("tokens", "scaling"), [(9, None), (9, 0.1), (LONG, None)])
def test_attention_that_drops_nothing_equals_sdpa_with_its_gradients(monkeypatch, layer, mask, tokens, scaling):
    monkeypatch.setattr(dropout, "dropped", lambda states, probability: states)
    found = []
    for function, share in ((attention, 0.5), (attention, 0.0), (sdpa_attention_forward, 0.0)):
        states = inputs(tokens)
        output, weights = function(layer, *states, MASKS[mask](tokens), dropout=share, scaling=scaling)
        assert weights is None
        output.square().sum().backward()
        found.append([output, *(each.grad for each in states)])
    for own, none_dropped, reference in zip(*found, strict=True):
        torch.testing.assert_close(own, reference)
        assert torch.equal(none_dropped, reference)


@pytest.mark.parametrize("tokens", [LONG - 1, LONG])
def test_attention_in_bf16_is_near_that_in_fp32_and_of_hidden_keys_a_mean(monkeypatch, layer, tokens):
    monkeypatch.setattr(dropout, "dropped", lambda states, probability: states)
    mask = seen_keys(tokens)
    mask[0, :, 0] = False  # a query that sees no key
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        states = [each.detach().to(torch.bfloat16).to(dtype).requires_grad_() for each in inputs(tokens)]
        output, _ = attention(layer, *states, mask, dropout=0.5)
        output.float().square().sum().backward()
        found[dtype] = [output, *(each.grad for each in states)]
        expected = states[2][0].mean(dim=1)
        torch.testing.assert_close(output[0, 0], expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=2e-2)
    for half, full in zip(found[torch.bfloat16], found[torch.float32], strict=True):
        assert half.dtype == torch.bfloat16
        assert (half.float() - full).abs().max() < 0.02 * full.abs().max()


def test_attention_drops_weights_and_keeps_their_mean(layer):
    query, key, value = (each.detach() for each in inputs())
    torch.manual_seed(5)
    outputs = torch.stack([attention(layer, query, key, value, None, dropout=0.2)[0] for _ in range(3000)])
    expected, _ = attention(layer, query, key, value, None)
    error = (outputs.mean(dim=0) - expected) / (outputs.std(dim=0) / len(outputs) ** 0.5)
    assert error.abs().max() < 5
    assert outputs.std(dim=0).min() > 0


def test_a_model_takes_it_and_is_the_same_in_all_else(model, tmp_path):
    before, names = copy.deepcopy(model).eval(), dict(model.named_modules())
    replaced = [name for name, module in names.items() if type(module) is nn.Dropout]
    drop_quickly(model)
    after = dict(model.named_modules())
    assert replaced
    assert {name: type(after[name]) for name in replaced} == dict.fromkeys(replaced, Dropout)
    assert {name: after[name].p for name in replaced} == {name: names[name].p for name in replaced}
    assert all(after[name].training for name in replaced)
    assert model.config._attn_implementation == model.body.config._attn_implementation == QUICK
    ids, mask = torch.tensor([[2, 8, 9, 3], [2, 8, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    model.eval()
    assert torch.equal(model(ids, mask).pooler_output, before(ids, mask).pooler_output)
    model.train()
    assert not torch.equal(model(ids, mask).pooler_output, model(ids, mask).pooler_output)
    model.save_pretrained(tmp_path)
    assert QUICK not in (tmp_path / "config.json").read_text()


def test_an_attention_that_was_chosen_stays(model):
    model.set_attn_implementation("eager")
    drop_quickly(model)
    assert model.config._attn_implementation == "eager"
