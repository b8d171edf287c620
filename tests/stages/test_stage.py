import time

import lightning
import pytest
import torch
from safetensors.torch import load_file
from transformers import get_linear_schedule_with_warmup

from helpers import SMALL_STAGE1
from poolwise.provenance import ProvenanceTracker
from poolwise.runs import hash_of, read_record
from poolwise.settings import Optimisation, UserError
from poolwise.stages import loop
from poolwise.stages.mlm import MaskedLanguageModelling
from poolwise.stages.stage import SeenLoss, Stage, linear_schedule, weight_decay_groups


def test_every_parameter_has_one_group_and_biases_and_norms_no_decay(model):
    decayed, plain = weight_decay_groups([*model.parameters(), *model.bert.parameters()], 0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names[id(p)] for group in (decayed, plain) for p in group["params"]) == sorted(names.values())
    assert all(
        ("bias" in names[id(p)] or "LayerNorm" in names[id(p)]) and isinstance(p, torch.Tensor) for p in plain["params"]
    )
    assert not any("bias" in names[id(p)] for p in decayed["params"])


@pytest.mark.parametrize(("steps", "share"), [(1, 0.0), (1, 1.0), (7, 0.0), (7, 0.5), (40, 0.05), (40, 1.0)])
def test_the_schedule_is_that_of_transformers(steps, share):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    warmup = round(share * steps)
    (expected,) = get_linear_schedule_with_warmup(optimizer, warmup, steps).lr_lambdas
    assert [linear_schedule(n, warmup, steps) for n in range(steps + 2)] == [expected(n) for n in range(steps + 2)]


def test_the_schedule_of_shares():
    assert [linear_schedule(n, 0.5, 2.5) for n in (0.0, 0.25, 0.5, 1.5, 2.5, 9.0)] == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]


SMALL = [*SMALL_STAGE1, "pretraining.batch_size=16", "logger=csv", "trainer.log_every_n_steps=1"]
"""Six steps an epoch."""


class Notes(lightning.Callback):
    """Learning rate and progress of each step, and how often dev was read."""

    def __init__(self):
        self.rates, self.progress, self.tokens, self.epochs, self.dev = [], [], [], [], 0

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"] / stage.optimisation.learning_rate)
        self.progress.append(stage.progress)
        self.tokens.append(int(batch["tokens"]))
        self.epochs.append(trainer.current_epoch)

    def on_validation_end(self, trainer, stage):
        self.dev += 1

    def on_train_end(self, trainer, stage):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"] / stage.optimisation.learning_rate)
        self.progress.append(stage.progress)


@pytest.fixture
def trained(program, tmp_path, monkeypatch):
    """Trains stage 1 with some settings: its notes, its record and its weights."""

    def train(*settings):
        notes = Notes()
        make = loop.make_trainer

        def with_notes(*arguments):
            trainer = make(*arguments)
            trainer.callbacks.append(notes)
            return trainer

        monkeypatch.setattr(loop, "make_trainer", with_notes)
        runs = tmp_path / hash_of(settings)[:8]
        assert program("stage=mlm", *SMALL, f"runs_dir={runs}", *settings) == 0
        monkeypatch.setattr(loop, "make_trainer", make)
        (folder,) = (runs / "mlm").iterdir()
        return notes, read_record(folder), load_file(folder / "export/model.safetensors")

    return train


@pytest.mark.slow
def test_a_budget_of_the_steps_of_the_epochs_is_these_epochs(trained):
    settings = ["objective.weight_schedule=decay", "pretraining.masking.final_mask_probability=0.3"]
    plain, record, weights = trained("pretraining.epochs=3", *settings)
    notes, same_record, same_weights = trained("budget=18steps", *settings)
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert (notes.rates, notes.progress, notes.tokens, notes.epochs, notes.dev) == (
        plain.rates,
        plain.progress,
        plain.tokens,
        plain.epochs,
        plain.dev,
    )
    metrics, same = ({k: v for k, v in r["metrics"].items() if "per_second" not in k} for r in (record, same_record))
    assert metrics == same
    assert record["provenance"]["parts"] == same_record["provenance"]["parts"]
    assert record["steps"] == same_record["steps"] == 18
    assert record["tokens"] == same_record["tokens"] == sum(notes.tokens)
    assert record["key"] != same_record["key"]
    assert "budget" not in record["material"]["pretraining"]
    assert "epochs" not in same_record["material"]["pretraining"]


@pytest.mark.parametrize("steps", [4, 6, 9])
def test_a_budget_of_steps_ends_with_them(trained, steps):
    notes, record, _ = trained(f"budget={steps}steps", "pretraining.optimisation.warmup_share=0.5")
    assert record["steps"] == len(notes.tokens) == steps
    assert record["name"] == f"demo-tiny-bow-{steps}steps-seed1"
    warmup = round(steps / 2)
    rates = [n / warmup if n < warmup else (steps - n) / (steps - warmup) for n in range(steps + 1)]
    assert notes.rates == pytest.approx(rates)
    assert notes.progress == pytest.approx([n / steps for n in range(steps + 1)])
    assert notes.dev == 1 + (steps > 6)
    assert record["metrics"]["dev/perplexity"] > 1


@pytest.mark.parametrize("objective", ["bow", pytest.param("views", marks=pytest.mark.slow)])
def test_a_budget_of_tokens_ends_with_the_batch_that_spends_it(trained, objective):
    epochs, whole, _ = trained(f"objective={objective}")
    budget = whole["tokens"] + 1
    notes, record, _ = trained(f"objective={objective}", f"budget={budget}tokens")
    assert notes.tokens[:6] == epochs.tokens
    assert len(notes.tokens) == record["steps"] == 7
    assert notes.epochs == [0] * 6 + [1]
    assert record["tokens"] == sum(notes.tokens)
    read = [sum(notes.tokens[:n]) for n in range(8)]
    assert notes.progress == pytest.approx([min(tokens / budget, 1) for tokens in read])
    warmup = 0.05 * budget
    expected = [linear_schedule(tokens, warmup, budget) for tokens in read]
    assert notes.rates == pytest.approx(expected)
    assert notes.rates[-1] == 0.0
    assert notes.dev == 2
    assert record["provenance"]["probes"] == 7


@pytest.mark.slow
def test_views_count_both_copies(trained):
    assert trained("objective=views")[1]["tokens"] == 2 * trained("objective=none")[1]["tokens"]


@pytest.mark.slow
def test_a_budget_of_time_ends_with_the_step_that_spends_it(trained):
    notes, record, _ = trained("budget=0.6s")
    assert 0.6 <= record["training_seconds"] < 1.6
    assert record["steps"] == len(notes.tokens) > 6
    assert notes.progress == sorted(notes.progress)
    assert notes.progress[-2] < 1.0 == notes.progress[-1]
    assert notes.rates[-1] < 0.1  # 0, or what was left where an epoch's end took the last moments
    assert record["metrics"]["dev/perplexity"] > 1
    assert record["material"]["pretraining"]["budget"] == {"amount": 0.6, "unit": "seconds"}


@pytest.mark.slow
def test_dev_and_probes_are_off_the_clock(trained, monkeypatch):
    def slow(method):
        def slowly(*arguments):
            time.sleep(0.5)
            return method(*arguments)

        return slowly

    monkeypatch.setattr(ProvenanceTracker, "probe", slow(ProvenanceTracker.probe))
    monkeypatch.setattr(MaskedLanguageModelling, "validation_step", slow(MaskedLanguageModelling.validation_step))
    _, record, _ = trained("budget=3steps")
    assert record["wall_seconds"] > 4 * 0.5
    assert record["training_seconds"] < 0.5


OPTIMISATION = Optimisation(learning_rate=1e-3, weight_decay=0.0, warmup_share=0.0, gradient_clip_norm=1.0)


class Idle(Stage):
    def trained_modules(self):
        return []

    def counts(self, batch):
        return {}


def test_a_clock_that_goes_back_adds_no_time(monkeypatch):
    stage = Idle(OPTIMISATION)
    stage.on_train_epoch_start()
    now = stage._resumed_at
    for reading, seconds in ((now + 2, 2.0), (now - 86400, 2.0), (now - 86399, 3.0)):
        monkeypatch.setattr(time, "perf_counter", lambda reading=reading: reading)
        stage._read_clock()
        assert stage.seconds == pytest.approx(seconds)


def test_the_first_of_several_losses_that_is_no_number_is_told():
    """On a GPU they are looked at together, at logged steps."""
    stage = Idle(OPTIMISATION)
    losses = [2.0, 1.5, float("inf"), float("nan")]
    stage._unchecked = [
        SeenLoss(number, torch.tensor(loss), 0.1 * number, torch.tensor(10.0 * number))
        for number, loss in enumerate(losses, start=4)
    ]
    told = "the loss of step 6 is inf; the last finite one was 1.5000; learning rate 0.6; .*, before clipping, 60. "
    with pytest.raises(UserError, match=told):
        stage.check_loss()
    stage.check_loss()
