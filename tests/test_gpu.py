"""What only a GPU can tell. Not run where there is none."""

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from lightning.fabric.utilities.apply_func import move_data_to_device

from helpers import MASKING, REPOSITORY, SMALL_STAGE1, SMALL_STAGE2, TEXTS, objective_settings, quiet_trainer
from poolwise.data.batching import MaskedBatches
from poolwise.data.tokens import tokenise
from poolwise.objectives import build_objective
from poolwise.objectives.base import BatchNeeds, Surroundings
from poolwise.provenance import ProvenanceTracker
from poolwise.settings import Optimisation
from poolwise.stages.mlm import MaskedLanguageModelling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

OPTIMISATION = Optimisation(learning_rate=1e-2, weight_decay=0.01, warmup_share=0.1, gradient_clip_norm=1.0)
CPU = "trainer.accelerator=cpu"
STAGE1 = [*(each for each in SMALL_STAGE1 if each != CPU), "stage=mlm", "logger=csv", "trainer.precision=bf16-mixed"]
STAGE2 = [*(each for each in SMALL_STAGE2 if each != CPU), "stage=sentiment", "logger=csv"]


@pytest.fixture
def synchronising_is_an_error():
    """What makes the CPU wait for the GPU raises, inside of what this returns."""

    @contextlib.contextmanager
    def never_waiting():
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.raises(RuntimeError, match="synchroniz"), never_waiting():
        torch.ones(1, device="cuda").item()
    return never_waiting


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_padding_loss_and_gradients_are_those_with_it(model, training_batch, precision):
    batch = move_data_to_device(training_batch(BatchNeeds()), torch.device("cuda"))
    model = model.eval().to("cuda")
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", "masked_positions")}
    assert not given["attention_mask"].all()

    def passed(**how):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision != "32-true"):
            output = model(**given, masked_only=True, **how)
            loss = output.loss + output.pooler_output.float().square().sum()
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    loss, gradients = passed()
    model.leave_out_padding()
    packed, of_packed = passed(packing=batch["packing"])
    share = 1e-4 if precision == "32-true" else 0.05
    assert packed.item() == pytest.approx(loss.item(), rel=share)
    assert of_packed.keys() == gradients.keys()
    for name, gradient in of_packed.items():
        assert (gradient - gradients[name]).norm() <= share * gradients[name].norm() + 1e-5, name


@pytest.mark.parametrize("name", ["none", "bow", "halves", "views", "decoder", "sop"])
def test_a_step_never_waits_for_the_gpu(model, tokenizer, synchronising_is_an_error, tmp_path, name):
    texts = tokenise(Dataset.from_dict({"text": [" ".join(pair) for pair in pairwise(TEXTS)]}), tokenizer, 64, tmp_path)
    objective = build_objective(objective_settings(name), Surroundings(tokenizer, model.config, texts), seed=1)
    batch = MaskedBatches(texts, tokenizer, MASKING, 1, objective.needs)[[(0, n) for n in range(len(texts))]]
    model.leave_out_padding()
    stage = MaskedLanguageModelling(model, objective, ProvenanceTracker(model, None, 1), OPTIMISATION).to("cuda")
    stage.trainer = quiet_trainer(1, None)
    stage.provenance.settle_start()
    optimizer = torch.optim.AdamW(stage.parameter_groups(), fused=True)
    stage.trainer.strategy.optimizers = [optimizer]
    batch = move_data_to_device(batch, torch.device("cuda"))

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = stage.training_step(batch, 0)
        loss.backward()
        stage.on_before_optimizer_step(optimizer)
        stage.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
        return loss

    first = step().item()  # makes ready what is made once
    with synchronising_is_an_error():
        last = [step() for _ in range(5)][-1]
    assert math.isfinite(last.item())
    assert last.item() != first


def test_both_stages_run_on_it(program, tmp_path):
    assert program(*STAGE1, "pretraining.epochs=3") == 0
    (record,) = (json.loads(file.read_text()) for file in tmp_path.glob("runs/mlm/*/record.json"))
    assert record["material"]["platform"] == {"device": "cuda", "precision": "bf16-mixed"}
    assert record["speed"]["leaves_out_padding"]
    assert not record["speed"]["quick_dropout"]
    assert record["peak_memory_mib"]["gpu"] > 0
    assert record["provenance"]["pooler_status"] == "trained"
    (export,) = tmp_path.glob("runs/mlm/*/export")
    small = [each for each in STAGE2 if not each.startswith(("model.", "stage1."))]
    for protocol in ("probe", "frozen", "finetune"):
        given = [each for each in small if protocol != "probe" or not each.startswith("protocol.")]
        assert program(*given, f"encoder={export}", "repr=pooler", f"protocol={protocol}") == 0
    records = [json.loads(file.read_text()) for file in tmp_path.glob("runs/sentiment/*/record.json")]
    assert len(records) == 3
    assert {record["status"] for record in records} == {"finished"}
    assert {record["material"]["platform"]["device"] for record in records} == {"cuda"}


COMPILING = "import sys; from poolwise import app, machine; machine.compiling_pays = lambda work: {}; app.main()"
"""The program itself, without the shape checks of the tests, which are not for compiling."""


def test_bf16_and_compiled_layers_end_where_fp32_does(tmp_path):
    losses = {}
    for name, precision in {"fp32": "32-true", "bf16": "bf16-mixed", "compiled": "bf16-mixed"}.items():
        given = [each for each in STAGE1 if not each.startswith("trainer.precision")]
        place, program = tmp_path / name, COMPILING.format(name == "compiled")
        further = ["pretraining.epochs=10", f"trainer.precision={precision}", f"runs_dir={place}"]
        done = subprocess.run(
            [sys.executable, "-c", program, *given, *further, f"cache_dir={tmp_path}/cache"],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        (record,) = (json.loads(file.read_text()) for file in place.glob("mlm/*/record.json"))
        assert record["speed"]["compiles_layers"] == (name == "compiled")
        losses[name] = record["metrics"]["dev/mlm_loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["compiled"] == pytest.approx(losses["bf16"], rel=0.02)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    places = [f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]
    command = [sys.executable, "train.py", *STAGE1, *places, "budget=600steps"]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    lines = tmp_path / "runs/mlm"
    for _ in range(1200):
        time.sleep(0.05)
        if any(len(file.read_text().splitlines()) >= 5 for file in lines.glob("*/metrics.jsonl")):
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert subprocess.run(command, cwd=REPOSITORY).returncode == 0
    (record,) = (json.loads(file.read_text()) for file in lines.glob("*/record.json"))
    (resumed,) = record["resumed_at_steps"]
    assert 0 < resumed < 600
    assert record["steps"] == 600


def test_what_does_not_fit_is_one_message(program, capfd):
    torch.cuda.empty_cache()
    # So little that small tensors find room, and the first large one, which takes a block of 20 MB, does not.
    torch.cuda.set_per_process_memory_fraction(12e6 / torch.cuda.get_device_properties(0).total_memory)
    try:
        assert program(*STAGE1, "pretraining.batch_size=96") == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    told = capfd.readouterr().err
    assert "out of memory at a batch of 96 texts by" in told
    assert "lower pretraining.batch_size=96 or data.max_length=48" in told
    assert "Traceback" not in told
