import logging
import math
from dataclasses import replace

import lightning
import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import BertForMaskedLM, BertModel

from helpers import BOW, MASKING, SMALL_STAGE1, TEXTS, objective_settings, quiet_trainer
from poolwise.data.arrangement import BatchNeeds, halves
from poolwise.data.batching import MaskedBatches
from poolwise.data.module import masked_data
from poolwise.data.tokens import tokenise
from poolwise.encoder import export, freeze_all_but_pooler, load_for_pretraining
from poolwise.jobs import MLMJob
from poolwise.objectives import OBJECTIVES, build_objective
from poolwise.objectives.base import Surroundings
from poolwise.provenance import ProvenanceTracker
from poolwise.runs import read_record
from poolwise.settings import Optimisation
from poolwise.stages.loop import mean_in_words
from poolwise.stages.pooler import BatchesWithStates, PoolerTraining, cls_states, kept_cls_states, same_rows_each_epoch

OPTIMISATION = Optimisation(learning_rate=1e-2, weight_decay=0.01, warmup_share=0.1, gradient_clip_norm=1.0)


def fit(folder, texts, tokenizer, settings=BOW, dev=None):
    """Pooler-only training from a checkpoint, as the job does it."""
    model = load_for_pretraining(str(folder), "keep", 1)
    objective = build_objective(settings, Surroundings(tokenizer, model.config, texts), seed=1)
    stage = PoolerTraining(model, objective, ProvenanceTracker(model, "base, sha256 abc", 1), OPTIMISATION)
    splits = {"train": texts, "dev": dev or texts}
    data = masked_data(splits, tokenizer, MASKING, 2, seed=1, workers=0, needs=objective.needs, epochs=2)
    freeze_all_but_pooler(model)
    if same_rows_each_epoch(objective.needs.arrangement):
        states = cls_states(model, texts, "cpu", objective.needs.arrangement)
        data.batches = {split: BatchesWithStates(batches, states) for split, batches in data.batches.items()}
    trainer = quiet_trainer(2, lightning.Callback())
    lightning.seed_everything(1, verbose=False)
    trainer.fit(stage, data)
    return stage, trainer


def test_states_are_those_of_each_text_alone_without_dropout(model, texts):
    assert model.config.hidden_dropout_prob > 0
    states = cls_states(model, texts, "cpu", None)
    assert states.shape == (1, 6, 16)
    assert all(module.training for module in model.modules())
    model.eval()
    for example in range(6):
        ids, _ = texts.padded(np.array([example]))
        with torch.no_grad():
            expected = model.bert(torch.tensor(ids)).last_hidden_state[0, 0]
        torch.testing.assert_close(states[0, example], expected)


def test_states_are_kept_and_read_again(model, texts, tmp_path, monkeypatch, caplog):
    file = tmp_path / "states/abc.npy"
    first = kept_cls_states(model, texts, file, "cpu", "halves")
    assert torch.equal(first, cls_states(model, texts, "cpu", "halves"))
    monkeypatch.setattr("poolwise.stages.pooler.cls_states", lambda *arguments: torch.zeros(2, 6, 16))
    assert torch.equal(kept_cls_states(model, texts, file, "cpu", "halves"), first)
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert kept_cls_states(model, texts, file, "cpu", "halves").abs().sum() == 0
    assert "broken" in caplog.text
    assert [path.name for path in file.parent.iterdir()] == ["abc.npy"]


def test_states_travel_with_their_examples(texts, tokenizer):
    splits = {"train": texts, "dev": texts}
    data = masked_data(splits, tokenizer, MASKING, 2, seed=1, workers=0, needs=BatchNeeds(), epochs=1)
    states = torch.arange(12.0).view(2, 6, 1)
    batch = BatchesWithStates(data.batches["train"], states)[[(0, 4), (0, 1)]]
    assert batch["cls_states"].tolist() == [[4.0], [1.0], [10.0], [7.0]]  # both halves
    ids, _ = texts.padded(np.array([4, 1]))
    assert batch["original_ids"].tolist() == ids.tolist()


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertModel])
def test_the_export_is_the_checkpoint_bit_for_bit_but_for_the_pooler(config, texts, tokenizer, tmp_path, kind):
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "base")
    stage, _ = fit(tmp_path / "base", texts, tokenizer)
    export(stage.model, tokenizer, stage.proof, "", tmp_path / "export")
    before = load_file(tmp_path / "base/model.safetensors")
    after = load_file(tmp_path / "export/model.safetensors")
    named = {key if key.startswith(("bert.", "cls.")) else f"bert.{key}": tensor for key, tensor in before.items()}
    kept = [key for key in named if "pooler" not in key]
    assert len(kept) > 30
    assert all(torch.equal(after[key], named[key]) for key in kept)
    assert (after["bert.pooler.dense.bias"] != 0).any()


def test_provenance_of_pooler_only_training(config, texts, tokenizer, tmp_path):
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    stage, trainer = fit(tmp_path, texts, tokenizer)
    parts = stage.proof["parts"]
    for name in ("embeddings", "layer.0", "layer.1", "mlm_head"):
        part = parts[name]
        assert (part["origin"], part["losses"], part["steps"]) == ("base, sha256 abc", [], 0)
        assert part["distance_moved"] == part["mean_gradient_norm"] == 0.0
    assert parts["pooler"]["losses"] == ["bow"]
    assert parts["pooler"]["steps"] == 6
    assert parts["pooler"]["distance_moved"] > 0
    assert stage.proof["loss_shares"] == {"bow": 1.0}
    names = {"objective_loss", "pooler_gradient_norm", "learning_rate", "tokens_per_second"}
    assert set(trainer.callback_metrics) == {f"train/{name}" for name in names} | {"dev/objective_loss"}


def test_a_fresh_mlm_head_is_trained_with_the_pooler(config, texts, tokenizer, tmp_path):
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path)
    stage, _ = fit(tmp_path, texts, tokenizer)
    head = stage.proof["parts"]["mlm_head"]
    assert head["losses"] == ["bow"]
    assert head["distance_moved"] > 0
    trained = {name for name, parameter in stage.model.named_parameters() if parameter.requires_grad}
    assert trained == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
    }


def test_the_loss_is_that_of_the_model_on_the_unmasked_texts(config, texts, tokenizer, tmp_path):
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    stage, trainer = fit(tmp_path, texts, tokenizer)
    model = stage.model.eval()
    losses = []
    for example in range(6):
        ids = torch.tensor(texts.padded(np.array([example]))[0])
        with torch.no_grad():
            losses.append(stage.objective(model.bert(ids).pooler_output, {"original_ids": ids}, model))
    torch.testing.assert_close(trainer.callback_metrics["dev/objective_loss"], torch.stack(losses).mean())


def test_the_encoder_is_read_once_a_text(config, texts, tokenizer, tmp_path, monkeypatch):
    BertForMaskedLM(config).save_pretrained(tmp_path)
    rows = []
    forward = BertModel.forward
    monkeypatch.setattr(BertModel, "forward", lambda self, ids, **k: rows.append(len(ids)) or forward(self, ids, **k))
    monkeypatch.setattr(
        "poolwise.stages.mlm.dev_geometries", lambda *arguments: 2 * ({"effective_rank": 5.0, "mean_cosine": 0.5},)
    )
    fit(tmp_path, texts, tokenizer)
    assert sum(rows) == len(texts)


@pytest.fixture
def sentences(tokenizer, tmp_path):
    """Five texts of two and three sentences, and one of one, with ratings."""
    rows = [f"{TEXTS[n]} {TEXTS[0]}" for n in (0, 1, 3)] + [f"{TEXTS[3]} {TEXTS[5]} {TEXTS[3]}", TEXTS[3], TEXTS[4]]
    made = tokenise(Dataset.from_dict({"text": rows}), tokenizer, 48, tmp_path / "sentences")
    return replace(made, ratings=np.array([1, 0, 1, 0, 1, 0]), rating_names=("1", "5"))


ROWS_READ = {"halves": 12, "simcse": 6 + 4 * 12, "views": 4 * 12, "sop": 4 * 6, "nsp": 4 * 6}
"""By the encoder: of six texts once, for most objectives; else in two epochs, and in dev after each."""


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "none"])
def test_each_objective_trains_the_pooler_and_nothing_of_the_encoder(
    config, sentences, tokenizer, tmp_path, name, monkeypatch
):
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    passes = []
    forward = BertModel.forward
    monkeypatch.setattr(BertModel, "forward", lambda self, ids, **k: passes.append(len(ids)) or forward(self, ids, **k))
    monkeypatch.setattr(
        "poolwise.stages.mlm.dev_geometries", lambda *arguments: 2 * ({"effective_rank": 5.0, "mean_cosine": 0.5},)
    )
    stage, trainer = fit(tmp_path, sentences, tokenizer, objective_settings(name))
    assert sum(passes) == ROWS_READ.get(name, 6)
    parts = stage.proof["parts"]
    assert [part for part in parts if parts[part]["distance_moved"] > 0] == ["pooler"]
    assert (parts["pooler"]["losses"], parts["pooler"]["steps"]) == ([name], 6)
    assert (stage.proof["pooler_status"], stage.proof["loss_shares"]) == ("trained", {name: 1.0})
    after = stage.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert trainer.callback_metrics["dev/objective_loss"] > 0


@pytest.mark.parametrize("name", ["sop", "nsp"])
def test_where_no_dev_text_can_be_split_there_is_no_dev_figure(config, sentences, texts, tokenizer, tmp_path, name):
    BertForMaskedLM(config).save_pretrained(tmp_path)
    _, trainer = fit(tmp_path, sentences, tokenizer, objective_settings(name), dev=texts)
    assert "train/objective_loss" in trainer.callback_metrics
    assert not [figure for figure in trainer.callback_metrics if figure.startswith("dev/")]


def test_several_objectives_at_their_weights_of_the_moment(config, texts, tokenizer, tmp_path):
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    changing = {"weight": 4.0, "weight_schedule": "decay", "schedule_share": 0.5}
    parts = {"bow": objective_settings("bow", **changing), "decoder": objective_settings("decoder")}
    stage, trainer = fit(tmp_path, texts, tokenizer, {"name": "combined", "parts": parts})
    names = {"objective_loss", "bow_loss", "decoder_loss"}
    assert {f"{split}/{name}" for split in ("train", "dev") for name in names} <= set(trainer.callback_metrics)
    assert stage.proof["parts"]["pooler"]["losses"] == ["bow", "decoder"]
    weights = []
    stage.objective.weights = lambda progress=None: weights.append(progress) or {"bow": 1.0, "decoder": 1.0}
    stage.weighted({"bow": torch.ones(()), "decoder": torch.ones(())})
    assert weights == [1.0]


def frozen_stage(folder, texts, tokenizer, name):
    """A stage on a frozen encoder in training mode, and a batch of all texts."""
    torch.manual_seed(0)
    model = load_for_pretraining(str(folder), "keep", 1)
    objective = build_objective(objective_settings(name), Surroundings(tokenizer, model.config, texts), seed=1)
    stage = PoolerTraining(model, objective, ProvenanceTracker(model, "base, sha256 abc", 1), OPTIMISATION).train()
    freeze_all_but_pooler(model)
    return stage, MaskedBatches(texts, tokenizer, MASKING, 1, objective.needs)[[(0, n) for n in range(len(texts))]]


@pytest.mark.parametrize(("name", "ids"), [("views", "input_ids"), ("sop", "original_ids"), ("nsp", "original_ids")])
def test_a_pass_of_the_frozen_encoder_has_no_dropout_and_no_graph(config, sentences, tokenizer, tmp_path, name, ids):
    BertForMaskedLM(config).save_pretrained(tmp_path)
    stage, batch = frozen_stage(tmp_path, sentences, tokenizer, name)
    assert (batch["input_ids"] != batch["original_ids"]).any()
    found = stage.pooled(batch)
    assert all(module.training for module in stage.modules())
    states = []
    stage.model.bert.pooler.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    stage.model.bert.eval()
    expected = stage.model.bert(
        batch[ids], attention_mask=batch["attention_mask"], token_type_ids=batch.get("token_type_ids")
    ).pooler_output
    assert torch.equal(found, expected)
    assert found.requires_grad
    assert not states[0].requires_grad


def test_simcse_on_a_frozen_encoder_has_two_dropout_views_and_none_in_evaluation(
    config, sentences, tokenizer, tmp_path
):
    BertForMaskedLM(config).save_pretrained(tmp_path)
    stage, batch = frozen_stage(tmp_path, sentences, tokenizer, "simcse")
    rows = []
    stage.objective.contrast = lambda vectors, ids: rows.append(vectors) or vectors.sum()
    batch = {**batch, "cls_states": torch.zeros(6, 16)}
    stage.losses(batch)
    stage.eval().losses(batch)
    (first, second), (third, fourth) = (vectors.chunk(2) for vectors in rows)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(third, fourth)


def test_the_summary_of_a_sweep_leaves_out_the_figures_of_mlm():
    runs = [{"dev/objective_loss": 0.5, "pooler/effective_rank": 3.0}]
    assert mean_in_words(runs, MLMJob.headline) == "dev/objective_loss 0.5000 (1 run)"


@pytest.mark.slow
def test_a_budget_of_pooler_only_training(program, tmp_path):
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv", f"runs_dir={tmp_path / 'base'}") == 0
    (base,) = (tmp_path / "base/mlm").glob("*/export")
    given = [setting for setting in SMALL_STAGE1 if not setting.startswith("model.")]
    assert program("stage=mlm", *given, f"model={base}", "trainable=pooler", "budget=5steps", "logger=csv") == 0
    (run,) = (tmp_path / "runs/mlm").iterdir()
    record = read_record(run)
    assert (record["objective"], record["steps"]) == ("bow+halves-pooler_only-5steps", 5)
    assert record["provenance"]["parts"]["pooler"]["steps"] == 5
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache/states").iterdir()}
    assert len(kept) == 2
    assert program("stage=mlm", *given, f"model={base}", "trainable=pooler", "budget=2steps", "seed=2") == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache/states").iterdir()} == kept


def test_halves_train_the_pooler_on_states_of_each_half(model, texts, tokenizer, tmp_path):
    made = halves(texts, np.arange(6))
    model.eval()
    with torch.no_grad():
        mask = torch.tensor(made.present).long()
        expected = model.bert(torch.tensor(made.token_ids), attention_mask=mask).last_hidden_state[:, 0]
    torch.testing.assert_close(cls_states(model, texts, "cpu", "halves").flatten(0, 1), expected)
    model.save_pretrained(tmp_path)
    stage, trainer = fit(tmp_path, texts, tokenizer, objective_settings("halves"))
    assert stage.proof["parts"]["pooler"]["losses"] == ["halves"]
    assert stage.proof["pooler_geometry"]["texts"] == 6
    pooled = stage.model.pooling_layer(expected.unsqueeze(1))
    batch = {"original_ids": torch.tensor(made.token_ids)}
    loss = stage.objective.losses(pooled, batch, stage.model)["halves"]
    assert 0 < loss.item() < 2 * math.log(6)
    assert trainer.callback_metrics["dev/objective_loss"] > 0
