"""Shape checks on all of poolwise, and small models and data that need no network."""

import os

os.environ.update(OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", WANDB_MODE="offline")

from jaxtyping import install_import_hook

install_import_hook("poolwise", "beartype.beartype")

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from datasets import Dataset
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from torch import nn
from transformers import BertConfig, BertTokenizer

from helpers import MASKING, TEXTS, objective_settings, write_run
from poolwise import app, checkpoints
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import MaskedBatches
from poolwise.data.tokens import TokenisedTexts, tokenise, train_wordpiece
from poolwise.encoder import BertForMaskedLMWithPooler, MaskedLMWithPooler
from poolwise.machine import answers
from poolwise.objectives import build_objective
from poolwise.objectives.base import Objective, Surroundings
from poolwise.representations import EncoderShape, build_representation
from poolwise.runs import MODEL_FOLDER
from poolwise.settings import LongTexts
from poolwise.stages.sentiment import SentimentClassifier
from poolwise.tracking import given_up
from poolwise.trained import Notes, place_from, save
from wandb_service import KEY, WandbService, wandb_service


@pytest.fixture
def tokenizer() -> BertTokenizer:
    return train_wordpiece(Dataset.from_dict({"text": TEXTS}), 200, 32)


@pytest.fixture
def config(tokenizer: BertTokenizer) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )


@pytest.fixture
def model(config: BertConfig) -> MaskedLMWithPooler:
    torch.manual_seed(0)
    return BertForMaskedLMWithPooler(config).train()


@pytest.fixture
def texts(tokenizer: BertTokenizer, tmp_path: Path) -> TokenisedTexts:
    rows = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 1, 0, 1, 0]})
    return tokenise(rows, tokenizer, 32, tmp_path / "cache")


@pytest.fixture
def windowed(tokenizer: BertTokenizer, tmp_path: Path) -> TokenisedTexts:
    """Two short texts, and two in windows of twelve tokens."""
    rows = Dataset.from_dict({"text": ["Dull.", " ".join(TEXTS), TEXTS[2], "Dull."], "label": [0, 1, 1, 0]})
    return tokenise(rows, tokenizer, 12, tmp_path / "cache", LongTexts("windows", 0.3))


@pytest.fixture
def surroundings(tokenizer: BertTokenizer, config: BertConfig, texts: TokenisedTexts) -> Surroundings:
    return Surroundings(tokenizer, config, texts)


@pytest.fixture(autouse=True)
def one_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of tests do not depend on what this machine multiplies fast."""
    monkeypatch.setattr("poolwise.machine.bf16_gain", lambda device: 1.0)


Program = Callable[..., int]
READ_MODE = Hydra.get_mode


def mode_where_it_is_set(hydra: Hydra, config_name: str, overrides: list[str]) -> RunMode | None:
    """Hydra's mode, which an experiment's file may set; None where the command line alone does, as for Hydra."""
    may_set = any(override.lstrip("+").startswith(("experiment", "hydra.mode")) for override in overrides)
    return READ_MODE(hydra, config_name, overrides) if may_set else None


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """`train.py` in this process, with its runs and cache under `tmp_path`; returns the exit code."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    # Coverage traces as a debugger does, and under one Hydra shows tracebacks in place of messages.
    monkeypatch.setattr("hydra._internal.utils.is_under_debugger", lambda: False)

    # Hydra composes a config to learn its mode, and another to run: a tenth of the time of all tests.
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", mode_where_it_is_set)

    def run(*arguments: str) -> int:
        places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
        monkeypatch.setattr(sys, "argv", ["train.py", *places, *arguments])
        try:
            app.main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0

    return run


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbService]:
    """A stand-in of W&B, with somebody logged in to it."""
    with wandb_service() as running:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(
            "tempfile.tempdir", str(tmp_path)
        )  # W&B's client makes a folder there for each run it reads
        answers.cache_clear()
        given_up.clear()
        wandb.teardown()  # what earlier tests left in this process knows another service
        yield running
        wandb.teardown()


Batches = Callable[..., dict[str, Any]]


@pytest.fixture
def training_batch(texts: TokenisedTexts, tokenizer: BertTokenizer) -> Batches:
    """All texts as one training batch that an objective's needs are met in."""

    def make(needs: BatchNeeds, epoch: int = 0) -> dict[str, Any]:
        return dict(MaskedBatches(texts, tokenizer, MASKING, 1, needs)[[(epoch, n) for n in range(len(texts))]])

    return make


@pytest.fixture
def sends_gradient(model: MaskedLMWithPooler, surroundings: Surroundings, training_batch: Batches):
    """Builds an objective by name, and checks that its gradient reaches pooler, encoder and its own parameters."""

    def check(name: str, **changes: Any) -> Objective:
        objective = build_objective(objective_settings(name, **changes), surroundings, seed=1)
        batch = training_batch(objective.needs)
        output = model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch.get("token_type_ids"))
        objective.losses(output.pooler_output, batch, model)[name].backward()
        pooler = model.bert.pooler.dense.weight.grad
        assert pooler is not None
        assert pooler.abs().sum() > 0
        assert all(p.grad is not None for p in objective.parameters())
        assert model.bert.encoder.layer[0].output.dense.weight.grad is not None
        return objective

    return check


@pytest.fixture
def trained_run(config: BertConfig, tokenizer: BertTokenizer, tmp_path: Path):
    """Writes a run whose classifier is what random weights make it; returns its folder and the classifier.

    All share one encoder, beside which `own_encoder=False` lets it lie.
    """

    def make(name: str, own_encoder: bool = True, **changes: Any) -> tuple[Path, SentimentClassifier]:
        torch.manual_seed(0)
        model = BertForMaskedLMWithPooler(config)
        shared = tmp_path / "runs" / "mlm" / "stage1" / "export"
        if not shared.exists():
            model.save_pretrained(shared)
            tokenizer.save_pretrained(shared)
        folder = write_run(tmp_path / "runs", name, 1, [3, 5], 0.9)
        representation = build_representation({"name": name, "layer": None}, EncoderShape.of(config))
        with torch.no_grad():
            for parameter in representation.parameters():
                parameter.add_(torch.randn_like(parameter) / 4)
        classifier = SentimentClassifier(model.body, representation, 2, dropout=0.1)
        nn.init.normal_(classifier.head.weight)
        notes = Notes(
            **{
                "representation": {"name": name, "layer": None},
                "formula": representation.formula_here,
                "label_names": ["bad", "good"],
                "temperature": 2.0,
                "max_length": 32,
                "long_texts": {"read": "head", "overlap": 0.0},
                "encoder": None if own_encoder else place_from(str(shared), folder),
                "fingerprint": None if own_encoder else checkpoints.fingerprint(str(shared)),
                **changes,
            }
        )
        body = classifier.encoder if own_encoder else None
        save(folder / MODEL_FOLDER, notes, classifier, body, tokenizer)
        return folder, classifier

    return make
