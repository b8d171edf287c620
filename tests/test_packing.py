"""Batches without padding, on their way to a GPU and in a step there."""

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch.utils.flop_counter import FlopCounterMode

from helpers import objective_settings, quiet_trainer
from poolwise.objectives import build_objective
from poolwise.objectives.base import Surroundings
from poolwise.packing import Packing, flash_takes, has_flash
from poolwise.provenance import ProvenanceTracker
from poolwise.settings import Optimisation
from poolwise.stages.mlm import MaskedLanguageModelling

OPTIMISATION = Optimisation(learning_rate=1e-2, weight_decay=0.01, warmup_share=0.1, gradient_clip_norm=1.0)


@pytest.mark.parametrize(
    ("dtype", "head_size", "device", "takes"),
    [
        (torch.bfloat16, 64, "meta", True),
        (torch.float16, 64, "meta", True),
        (torch.float32, 64, "meta", False),
        (torch.bfloat16, 60, "meta", False),
        (torch.bfloat16, 64, "cpu", False),
    ],
)
def test_flash_attention_takes_half_precision_in_heads_of_eights_on_a_gpu(dtype, head_size, device, takes):
    assert flash_takes(dtype, head_size, torch.device(device)) == takes


@pytest.mark.parametrize(
    ("capability", "hip", "built", "has"),
    [
        ((8, 0), None, True, True),
        ((7, 5), None, True, False),
        ((10, 3), "6.2", True, False),
        ((9, 0), None, False, False),
    ],
)
def test_flash_attention_is_of_nvidias_later_gpus_and_a_torch_that_has_it(monkeypatch, capability, hip, built, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr("poolwise.packing.is_flash_attention_available", lambda: built)
    assert has_flash.__wrapped__(torch.device("cuda")) == has


class Moved(torch.Tensor):
    """Notes how it is asked to move, and stays."""

    asked: list[tuple[torch.device, bool]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to:
            cls.asked.append((args[1], (kwargs or {}).get("non_blocking", False)))
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("cpu", True)])
def test_lightning_has_it_copied_to_a_gpu_without_waiting(monkeypatch, device, waits):
    monkeypatch.setattr(Moved, "asked", [])
    parts = (torch.arange(3).as_subclass(Moved), torch.tensor([0, 3], dtype=torch.int32).as_subclass(Moved))
    moved = move_data_to_device({"packing": Packing(*parts, 3, 3)}, torch.device(device))["packing"]
    assert Moved.asked == [(torch.device(device), not waits)] * 2
    assert (moved.longest, moved.shortest) == (3, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["none", "bow"])
def test_a_step_without_padding_never_waits_for_the_device(model, texts, tokenizer, training_batch, name, dtype):
    """On `meta`, where no number is known, so that reading one raises. There torch chooses flash attention, as a GPU
    does, while floating-point operations are counted; autocast, which InfoNCE turns off, knows no `meta`."""
    objective = build_objective(objective_settings(name), Surroundings(tokenizer, model.config, texts), seed=1)
    batch = training_batch(objective.needs)
    model.leave_out_padding()
    stage = MaskedLanguageModelling(model, objective, ProvenanceTracker(model, None, 1), OPTIMISATION)
    stage = stage.to("meta", dtype)
    stage.trainer = quiet_trainer(1, None)
    stage.provenance.settle_start()
    optimizer = torch.optim.AdamW(stage.parameter_groups())
    stage.trainer.strategy.optimizers = [optimizer]
    batch = move_data_to_device(batch, torch.device("meta"))
    with FlopCounterMode(display=False) as counted:
        stage.training_step(batch, 0).backward()
        stage.on_before_optimizer_step(optimizer)
        stage.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
    operations = {str(operation) for operation in counted.get_flop_counts()["Global"]}
    assert {"aten._flash_attention_forward", "aten._flash_attention_backward"} <= operations
    with pytest.raises(RuntimeError, match="meta"):
        stage._gradient_norm.item()
