import torch

from poolwise.stages.stage import weight_decay_groups


def test_every_parameter_has_one_group_and_biases_and_norms_no_decay(model):
    decayed, plain = weight_decay_groups([model, model.bert], 0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names[id(p)] for group in (decayed, plain) for p in group["params"]) == sorted(names.values())
    assert all(
        ("bias" in names[id(p)] or "LayerNorm" in names[id(p)]) and isinstance(p, torch.Tensor) for p in plain["params"]
    )
    assert not any("bias" in names[id(p)] for p in decayed["params"])
