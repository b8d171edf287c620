import json
from dataclasses import replace

import lightning
import pytest
import torch
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import BOW, CONSTANT, MASKING, TEXTS, objective_settings, quiet_trainer
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.module import masked_data
from poolwise.data.tokens import tokenise
from poolwise.encoder import ROWS_AT_ONCE, BertForMaskedLMWithPooler
from poolwise.objectives import build_objective
from poolwise.objectives.base import Surroundings
from poolwise.provenance import ProvenanceTracker
from poolwise.settings import Optimisation
from poolwise.stages.mlm import PROBES, MaskedLanguageModelling, masked_accuracy
from poolwise.stages.stage import Stage

OPTIMISATION = Optimisation(learning_rate=1e-2, weight_decay=0.01, warmup_share=0.1, gradient_clip_norm=1.0)


class Watcher(lightning.Callback):
    """Notes modes and pooler gradients while Lightning trains."""

    def __init__(self):
        self.modes, self.pooler_gradients, self.masks = [], [], []
        self.kept_gradients = 0

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        self.modes.append(all(module.training for module in stage.model.modules()))
        self.masks.append(batch["labels"])
        self.kept_gradients += sum(parameter.grad is not None for parameter in stage.parameters())

    def on_before_optimizer_step(self, trainer, stage, optimizer):
        self.pooler_gradients.append(stage.model.bert.pooler.dense.weight.grad)


def fit(model, texts, tokenizer, settings, epochs=2, rate=None):
    objective = build_objective(settings, Surroundings(tokenizer, model.config, texts), seed=1)
    provenance = ProvenanceTracker(model, None, 1)
    stage = MaskedLanguageModelling(model, objective, provenance, OPTIMISATION, pooler_learning_rate=rate)
    watcher = Watcher()
    trainer = quiet_trainer(epochs, watcher)
    lightning.seed_everything(1, verbose=False)
    data = masked_data(
        {"train": texts, "dev": texts}, tokenizer, MASKING, 2, seed=1, workers=0, needs=objective.needs, epochs=epochs
    )
    trainer.fit(stage, data)
    return stage, watcher, trainer


def test_the_encoder_trains_in_train_mode_also_after_validation(model, texts, tokenizer):
    """Held away: Lightning leaves a model that comes in eval mode so, without dropout, for the whole fit."""
    _, watcher, _ = fit(model, texts, tokenizer, BOW)
    assert watcher.modes == [True] * 6


def test_no_gradient_is_kept_while_the_next_batch_is_read(model, texts, tokenizer):
    _, watcher, _ = fit(model, texts, tokenizer, BOW)
    assert watcher.kept_gradients == 0
    assert all(gradient.abs().sum() > 0 for gradient in watcher.pooler_gradients)


@pytest.mark.parametrize("objective", [{"name": "none"}, BOW])
def test_the_pooler_gets_a_gradient_from_the_objective_only(model, texts, tokenizer, objective):
    before = model.bert.pooler.dense.weight.detach().clone()
    stage, watcher, trainer = fit(model, texts, tokenizer, objective)
    trained = objective is BOW
    assert len(watcher.pooler_gradients) == 6
    assert all((gradient is not None) == trained for gradient in watcher.pooler_gradients)
    assert torch.equal(before, model.bert.pooler.dense.weight) != trained
    assert (trainer.callback_metrics["train/pooler_gradient_norm"] > 0) == trained
    # So few steps on a BERT of small weights: all texts still lie on one vector, and that is said.
    assert stage.proof["pooler_geometry"]["mean_cosine"] > 0.999
    assert stage.proof["cls_geometry"]["mean_cosine"] < stage.proof["pooler_geometry"]["mean_cosine"]
    assert stage.proof["pooler_status"] == ("collapsed" if trained else "random")


def test_pooler_and_decoder_have_a_learning_rate_of_their_own(model, texts, tokenizer):
    settings = {"name": "decoder", "weight": 1.0, **CONSTANT, "mask_probability": 0.5}
    stage, _, trainer = fit(model, texts, tokenizer, settings, rate=0.125)
    (optimizer,) = trainer.optimizers
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates)
    own = {id(p) for part in (model.pooling_layer, stage.objective) for p in part.parameters()}
    assert len(own) > 2
    assert all(rates[id(p)] == (0.125 if id(p) in own else OPTIMISATION.learning_rate) for p in stage.parameters())


def test_the_same_learning_rate_for_all_changes_no_number(config, texts, tokenizer):
    weights = []
    for rate in (None, OPTIMISATION.learning_rate):
        torch.manual_seed(0)
        stage, _, _ = fit(BertForMaskedLMWithPooler(config).train(), texts, tokenizer, BOW, rate=rate)
        weights.append(stage.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_probes_are_spread_from_the_first_step_to_the_last(model, texts, tokenizer, monkeypatch):
    probed = []
    stage, _, trainer = fit(model, texts, tokenizer, BOW, epochs=4)
    assert trainer.global_step == 12
    assert stage.proof["probes"] == PROBES == 8
    monkeypatch.setattr(ProvenanceTracker, "probe", lambda self, losses: probed.append(trainers[0].global_step))
    trainers = []
    monkeypatch.setattr(Watcher, "on_train_start", lambda self, trainer, stage: trainers.append(trainer), raising=False)
    fit(model, texts, tokenizer, BOW, epochs=4)
    assert probed == [0, 1, 3, 4, 6, 7, 9, 11]


def test_probes_change_no_number(config, texts, tokenizer, monkeypatch):
    weights = []
    for probes in (PROBES, 1):
        monkeypatch.setattr("poolwise.stages.mlm.PROBES", probes)
        torch.manual_seed(0)
        stage, _, _ = fit(BertForMaskedLMWithPooler(config).train(), texts, tokenizer, BOW)
        weights.append(stage.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_masks_are_fresh_in_every_epoch_under_lightning(model, texts, tokenizer):
    _, watcher, _ = fit(model, texts, tokenizer, BOW)
    first, second = (
        sorted(tuple(row) for labels in watcher.masks[part] for row in labels.tolist())
        for part in (slice(0, 3), slice(3, 6))
    )
    assert first != second


def test_dev_figures_are_means_over_masked_positions(model, texts, tokenizer):
    stage, _, trainer = fit(model, texts, tokenizer, BOW)
    stage.eval()
    data = masked_data(
        {"train": texts, "dev": texts}, tokenizer, MASKING, 6, seed=1, workers=0, needs=BatchNeeds(), epochs=1
    )
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        expected = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss
    found = trainer.callback_metrics
    torch.testing.assert_close(found["dev/mlm_loss"], expected)
    torch.testing.assert_close(found["dev/perplexity"], expected.exp())


def test_dev_objective_is_a_mean_over_pairs_whatever_the_batches(model, tokenizer, tmp_path):
    short, long = TEXTS[3], f"{TEXTS[3]} {TEXTS[0]}"
    texts = tokenise(Dataset.from_dict({"text": [short] * 4 + [long] * 2}), tokenizer, 48, tmp_path)
    sop = objective_settings("sop")
    stage, _, trainer = fit(model, texts, tokenizer, sop)  # batches of 2: four texts alone, then two pairs
    stage.eval()
    data = masked_data(
        {"train": texts, "dev": texts}, tokenizer, MASKING, 6, seed=1, workers=0, needs=stage.objective.needs, epochs=1
    )
    (batch,) = data.val_dataloader()
    pairs = batch["arranged"]
    assert (pairs["pair_labels"] >= 0).sum() == 2
    with torch.no_grad():
        expected = stage.objective(stage.encode(pairs).pooler_output, pairs, model)
    torch.testing.assert_close(trainer.callback_metrics["dev/objective_loss"], expected)


def test_what_is_logged(model, texts, tokenizer):
    _, _, trainer = fit(model, texts, tokenizer, BOW)
    names = {
        "train/mlm_loss",
        "train/perplexity",
        "train/masked_accuracy",
        "train/objective_loss",
        "train/pooler_gradient_norm",
        "train/learning_rate",
        "train/tokens_per_second",
        "dev/mlm_loss",
        "dev/perplexity",
        "dev/masked_accuracy",
        "dev/objective_loss",
    }
    assert set(trainer.callback_metrics) == names


def test_the_weight_multiplies_the_objective(model, texts, tokenizer):
    stage, _, _ = fit(model, texts, tokenizer, BOW, epochs=1)
    stage.eval()
    data = masked_data(
        {"train": texts, "dev": texts}, tokenizer, MASKING, 6, seed=1, workers=0, needs=BatchNeeds(), epochs=1
    )
    (batch,) = data.val_dataloader()
    output = stage.encode(batch)
    losses = stage.objective.losses(output.pooler_output, batch, model)
    stage.log_training = lambda figures: None
    torch.testing.assert_close(stage.training_step(batch, 1), output.loss + 2.0 * losses["bow"])


def test_a_step_computes_the_last_layer_where_it_is_read(model, texts, tokenizer, training_batch):
    objective = build_objective(objective_settings("bow"), Surroundings(tokenizer, model.config, texts), seed=1)
    stage = MaskedLanguageModelling(model, objective, ProvenanceTracker(model, None, 1), OPTIMISATION)
    rows = []
    for layer in model.bert.encoder.layer:
        layer.output.register_forward_hook(lambda module, states, found: rows.append(found.shape[:-1].numel()))
    batch = training_batch(objective.needs)
    stage.encode(batch)
    texts_and_tokens, masked = batch["input_ids"].shape, len(batch["masked_positions"])
    *whole, last = rows
    assert set(whole) == {texts_and_tokens.numel()}
    assert last == texts_and_tokens[0] + masked + -masked % ROWS_AT_ONCE


class Gradients(lightning.Callback):
    """Keeps the gradients of each step, before they are clipped, and how many positions each batch has masked."""

    def __init__(self):
        self.steps, self.masked = [], []

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        self.masked.append(len(batch["masked_positions"]))

    def on_before_optimizer_step(self, trainer, stage, optimizer):
        found = {name: p.grad.clone() for name, p in stage.model.named_parameters() if p.grad is not None}
        self.steps.append(found)


@pytest.mark.parametrize("name", ["none", "bow"])
def test_a_batch_equals_smaller_ones_that_are_accumulated(model, tokenizer, tmp_path, name):
    """8 texts of unlike lengths, or 4 times 2 of them: the mean over masked positions, whichever batch they are in.

    An objective's means over the texts of each batch are weighted likewise.
    """
    texts = tokenise(Dataset.from_dict({"text": [*TEXTS, "Fine.", " ".join(TEXTS)]}), tokenizer, 64, tmp_path)
    masking = replace(MASKING, mask_probability=0.4)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def gradients(batch_size: int, accumulated: int) -> Gradients:
        model.load_state_dict(start)
        objective = build_objective(objective_settings(name), Surroundings(tokenizer, model.config, texts), seed=1)
        still = replace(OPTIMISATION, learning_rate=0.0)
        stage = MaskedLanguageModelling(model, objective, ProvenanceTracker(model, None, 1), still)
        seen = Gradients()
        trainer = quiet_trainer(1, seen, accumulate_grad_batches=accumulated)
        data = masked_data(
            {"train": texts, "dev": texts}, tokenizer, masking, batch_size, 1, 0, needs=objective.needs, epochs=1
        )
        trainer.fit(stage, data)
        return seen

    (accumulated,), alone = gradients(2, 4).steps, gradients(2, 1)
    assert len(set(alone.masked)) > 1
    for part, gradient in accumulated.items():
        of_parts = sum(step[part] * masked for step, masked in zip(alone.steps, alone.masked, strict=True))
        torch.testing.assert_close(gradient, of_parts / sum(alone.masked), atol=1e-6, rtol=1e-4)
    (whole,) = gradients(8, 1).steps
    assert whole.keys() == accumulated.keys()
    if name == "none":
        torch.testing.assert_close(accumulated, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["none", "bow", "decoder"])
@pytest.mark.parametrize("share", [0.1, 10.0])
def test_gradients_are_clipped_by_the_norm_of_all_as_torch_does(model, texts, tokenizer, training_batch, name, share):
    objective = build_objective(objective_settings(name), Surroundings(tokenizer, model.config, texts), seed=1)
    stage = MaskedLanguageModelling(model, objective, ProvenanceTracker(model, None, 1), OPTIMISATION)
    stage.trainer = quiet_trainer(1, None)
    optimizer = torch.optim.AdamW(stage.parameter_groups())
    stage.trainer.strategy.optimizers = [optimizer]
    stage.training_step(training_batch(objective.needs), 0).backward()
    stage.on_before_optimizer_step(optimizer)
    trained = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
    before = [each.grad.clone() for each in trained]
    norm = torch.nn.utils.get_total_norm(before)
    limit = share * float(norm)
    stage.configure_gradient_clipping(optimizer, limit)
    torch.testing.assert_close(stage._gradient_norm, norm)
    for each, gradient in zip(trained, before, strict=True):
        torch.testing.assert_close(each.grad, gradient * min(limit / (norm + 1e-6), 1.0))


class WaitsForDevice(TorchDispatchMode):
    """Counts operations after which the program would wait for a GPU: reading a number, learning a size."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split(".")[1]
        self.count += name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        self.count += any(index is not None and index.dtype == torch.bool for index in indices)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["bow", "halves", "views", "decoder"])
def test_a_step_does_not_wait_for_the_device(model, texts, tokenizer, training_batch, monkeypatch, name):
    """But once, in a pass with padding: transformers asks whether a mask is all ones. (Without padding a CPU loops over
    texts, and only a GPU could tell.)"""
    objective = build_objective(objective_settings(name), Surroundings(tokenizer, model.config, texts), seed=1)
    stage = MaskedLanguageModelling(model, objective, ProvenanceTracker(model, None, 1), OPTIMISATION)
    stage.trainer = quiet_trainer(1, Watcher())
    stage.trainer.strategy.optimizers = [torch.optim.SGD(model.parameters())]
    monkeypatch.setattr(Stage, "is_at_hand", lambda stage, loss: False)  # as on a GPU
    monkeypatch.setattr("poolwise.encoder.is_by_rows", lambda logits: False)
    batch = training_batch(objective.needs)
    stage.training_step(batch, 0).backward()  # what is made at the first step
    with WaitsForDevice() as waits:
        stage.training_step(batch, 0).backward()
        stage.provenance.note_gradients()
    assert waits.count == 1


def test_masked_accuracy():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert masked_accuracy(logits, torch.tensor([1, 1])).item() == 0.5
    assert masked_accuracy(logits[:0], torch.tensor([], dtype=torch.int64)).item() == 0.0


@pytest.mark.slow
def test_bf16_ends_within_the_noise_of_fp32(program, tmp_path):
    """Both stages by three seeds, which draw the same in both precisions: these differ on average by far less than
    seeds of fp32 do in stage 1, and by less than these in stage 2."""
    common = ["data.text=1500", "data.text_dev=300", "logger=csv", "seed=1,2,3", "-m"]
    stage2 = ["stage=sentiment", "stage1.seed=${seed}", "stage1.epochs=2", "protocol.epochs=3", "repr=pooler"]
    for precision in ("32-true", "bf16-mixed"):
        given = [f"trainer.precision={precision}", *common]
        assert program("stage=mlm", "pretraining.epochs=2", *given) == 0
        assert program(*stage2, *given) == 0
    found = {}
    for file in (tmp_path / "runs").glob("*/*/record.json"):
        record = json.loads(file.read_text())
        for name in ("dev/mlm_loss", "test/loss", "test/accuracy"):
            if name in record["metrics"]:
                found[record["material"]["platform"]["precision"], name, record["seed"]] = record["metrics"][name]
    assert len(found) == 2 * 3 * 3
    for name, share in {"dev/mlm_loss": 0.2, "test/loss": 1.0, "test/accuracy": 1.0}.items():
        full = torch.tensor([found["32-true", name, seed] for seed in (1, 2, 3)])
        differences = torch.tensor([found["bf16-mixed", name, seed] for seed in (1, 2, 3)]) - full
        assert differences.abs().max() < 0.1 * full.mean()
        assert differences.mean().abs() < share * full.std(), (name, full, differences)
        assert differences.abs().max() < {"dev/mlm_loss": 0.02, "test/loss": 0.1, "test/accuracy": 0.05}[name]
