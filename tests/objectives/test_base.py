from pathlib import Path

import pytest
import torch
import yaml

from helpers import BOW, REPOSITORY, objective_settings
from poolwise.data.masking import positions_of
from poolwise.objectives import OBJECTIVES, build_objective
from poolwise.settings import UserError, settings_of


def test_none_is_zero_without_a_gradient(model, surroundings):
    pooled = torch.zeros(2, 16, requires_grad=True)
    loss = build_objective({"name": "none"}, surroundings, seed=1)(pooled, {}, model)
    assert loss.item() == 0.0
    assert not loss.requires_grad


def test_each_has_a_config_file_with_its_settings():
    files = {file.stem: yaml.safe_load(file.read_text()) for file in Path(REPOSITORY, "conf/objective").glob("*.yaml")}
    for name, kind in OBJECTIVES.items():
        assert set(files[name]) == {"name", *settings_of(kind)}


def test_unknown_name_lists_the_known_ones(surroundings):
    with pytest.raises(UserError, match="allowed: bow, "):
        build_objective({"name": "clauses"}, surroundings, seed=1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [2.0, 2.0, 2.0, 2.0]), ("decay", [2.0, 1.0, 0.0, 0.0]), ("warmup", [0.0, 1.0, 2.0, 2.0])],
)
def test_the_weight_follows_its_schedule(surroundings, schedule, expected):
    objective = build_objective({**BOW, "weight_schedule": schedule, "schedule_share": 0.4}, surroundings, seed=1)
    assert [objective.weights(progress)["bow"] for progress in (0.0, 0.2, 0.4, 1.0)] == pytest.approx(expected)
    assert objective.weights() == {"bow": 2.0}


@pytest.mark.parametrize("name", ["bow", "decoder"])
def test_parts_of_a_batch_weighed_by_what_they_count_are_the_whole(
    model, surroundings, training_batch, tokenizer, name
):
    objective = build_objective(objective_settings(name), surroundings, seed=1).eval()
    model.eval()
    batch = training_batch(objective.needs)
    batch["original_ids"][1] = tokenizer.pad_token_id  # no piece to predict
    vectors = torch.randn(6, 16)
    rows = [slice(0, 2), slice(2, 6)]
    parts = [
        {key: value[of] for key, value in batch.items() if torch.is_tensor(value) and len(value) == 6} for of in rows
    ]
    for part in parts:
        part |= {"second_positions": positions_of(part["second_labels"])} if name == "decoder" else {}
    losses = [objective.losses(vectors[of], part, model)[name] for of, part in zip(rows, parts, strict=True)]
    counts = [int(objective.counts(part)[name]) for part in parts]
    assert sum(counts) == int(objective.counts(batch)[name])
    expected = objective.losses(vectors, batch, model)[name]
    torch.testing.assert_close(sum(c * loss for c, loss in zip(counts, losses, strict=True)) / sum(counts), expected)
