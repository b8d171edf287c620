import logging
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from torch.nn import functional

from helpers import MASKING, TEXTS, objective_settings
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import MaskedBatches
from poolwise.data.tokens import tokenise
from poolwise.objectives import build_objective
from poolwise.objectives.base import Surroundings
from poolwise.settings import UserError


@pytest.fixture
def several(tokenizer, config, tmp_path) -> Surroundings:
    """Three texts of two sentences, and one of one."""
    rows = [f"{TEXTS[3]} {TEXTS[0]}", f"{TEXTS[0]} {TEXTS[3]}", TEXTS[3], f"{TEXTS[3]} {TEXTS[3]} {TEXTS[3]}"]
    return Surroundings(tokenizer, config, tokenise(Dataset.from_dict({"text": rows}), tokenizer, 48, tmp_path))


@pytest.mark.parametrize("name", ["sop", "nsp"])
def test_it_is_the_cross_entropy_over_texts_that_were_split(model, several, name, caplog):
    with caplog.at_level(logging.WARNING):
        objective = build_objective(objective_settings(name), several, seed=1)
    assert f"objective={name}: 1 of 4 training texts are too short to split" in caplog.text
    assert objective.notes()[name]["texts_too_short_to_split"] == 1
    batch = MaskedBatches(several.texts, several.tokenizer, MASKING, 1, objective.needs)[[(0, n) for n in range(4)]]
    assert batch["pair_labels"][2] == -100
    assert objective.counts(batch) == {name: 3}
    output = model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"])
    loss = objective(output.pooler_output, batch, model)
    known = torch.tensor([0, 1, 3])
    logits = objective.head(output.pooler_output[known])
    torch.testing.assert_close(loss, functional.cross_entropy(logits, batch["pair_labels"][known]))
    loss.backward()
    assert model.bert.pooler.dense.weight.grad.abs().sum() > 0
    assert model.bert.embeddings.token_type_embeddings.weight.grad[1].abs().sum() > 0


@pytest.mark.parametrize("name", ["sop", "nsp"])
def test_dev_texts_that_cannot_be_split_are_counted_and_told(several, texts, name, caplog):
    with caplog.at_level(logging.WARNING):
        objective = build_objective(objective_settings(name), replace(several, dev_texts=texts), seed=1)
    assert f"objective={name}: 6 of 6 dev texts are too short to split, and it leaves them out; it has no dev" in (
        caplog.text
    )
    counts = {"texts": 4, "texts_too_short_to_split": 1, "dev_texts": 6, "dev_texts_too_short_to_split": 6}
    assert counts.items() <= objective.notes()[name].items()


def test_texts_of_one_sentence_alone_are_refused(surroundings, tokenizer, config, tmp_path):
    rows = Dataset.from_dict({"text": [TEXTS[3], f"{TEXTS[0]} {TEXTS[0]}", TEXTS[3]]})
    around = Surroundings(tokenizer, config, tokenise(rows, tokenizer, 48, tmp_path / "few"))
    with pytest.raises(UserError, match="objective=nsp needs texts of several sentences; of 3 texts 1 can be split"):
        build_objective(objective_settings("nsp"), around, seed=1)
    assert build_objective(objective_settings("sop"), around, seed=1).needs == BatchNeeds("order")
