import json
import shlex

import pytest
import torch

from helpers import SMALL_STAGE1, SMALL_STAGE2, objective_settings
from poolwise.app import composed, prepared, register_schemas
from poolwise.command_line import override_in, problem_with_stage, stage1_command, stage2_command
from poolwise.data.arrangement import BatchNeeds
from poolwise.objectives import build_objective, label_of, typed_objective
from poolwise.settings import UserError


def combined(**parts):
    return {"name": "combined", "parts": {name: objective_settings(name, **changes) for name, changes in parts.items()}}


def test_it_has_the_losses_and_weights_of_its_parts_in_one_batch(model, surroundings, training_batch):
    settings = combined(
        bow={"weight": 3.0, "weight_schedule": "decay", "schedule_share": 0.5},
        views={"projection_size": 4},
        decoder={"weight": 0.5},
    )
    objective = build_objective(settings, surroundings, seed=1)
    assert objective.needs == BatchNeeds("views", 0.5)
    assert objective.weights() == {"bow": 3.0, "views": 1.0, "decoder": 0.5}
    assert objective.weights(0.25) == {"bow": 1.5, "views": 1.0, "decoder": 0.5}
    assert set(objective.notes()) == {"bow", "views", "decoder"}
    model.eval()
    objective.eval()
    batch = training_batch(objective.needs)
    vectors = torch.randn(12, 16)
    losses = objective.losses(vectors, batch, model)
    for name in ("bow", "views", "decoder"):
        alone = build_objective(settings["parts"][name], surroundings, seed=1).eval()
        torch.testing.assert_close(losses[name], alone.losses(vectors, batch, model)[name])


def test_its_label_names_the_parts_in_one_order():
    settings = typed_objective(combined(views={}, bow={"weight": 3}))
    assert label_of(settings) == "bow+views"
    assert settings["parts"]["bow"]["weight"] == 3.0
    assert label_of(combined(bow={}, rating={})) == "bow+rating (reads labels)"
    assert label_of(combined(bow={}, rating={}), "pooler") == "bow+rating-pooler_only (reads labels)"
    assert label_of(objective_settings("bow"), "pooler") == "bow-pooler_only"


def test_parts_that_need_different_batches_are_refused(surroundings):
    with pytest.raises(UserError, match="views needs views, simcse needs single"):
        build_objective(combined(views={}, simcse={}), surroundings, seed=1)


@pytest.mark.slow
def test_it_runs_and_stage_2_finds_it(program, tmp_path):
    stage1 = ["objective=combined", "+objective@objective.parts.decoder=decoder", "objective.parts.bow.weight=1"]
    assert program("stage=mlm", *stage1, *SMALL_STAGE1, "logger=csv") == 0
    (file,) = (tmp_path / "runs/mlm").glob("*/record.json")
    record = json.loads(file.read_text())
    names = ["bow", "decoder", "halves"]
    assert record["objective"] == "bow+decoder+halves"
    assert record["provenance"]["parts"]["pooler"]["losses"] == names
    metrics = record["metrics"]
    assert metrics["dev/objective_loss"] == pytest.approx(sum(metrics[f"dev/{name}_loss"] for name in names))
    stage2 = [
        "objective@stage1.objective=combined",
        "+objective@stage1.objective.parts.decoder=decoder",
        "stage1.objective.parts.bow.weight=1",
    ]
    assert program("stage=sentiment", *stage2, *SMALL_STAGE2, "logger=csv") == 0


IN_STAGE_1 = ["objective=combined", "+objective@objective.parts.decoder=decoder", "~objective.parts.halves"]
IN_STAGE_2 = [
    "objective@stage1.objective=combined",
    "+objective@stage1.objective.parts.decoder=decoder",
    "~stage1.objective.parts.halves",
]


def test_the_commands_of_the_other_stage_have_the_parts_too():
    assert stage1_command(["stage=sentiment", *IN_STAGE_2]) == shlex.join(
        ["python", "train.py", "stage=mlm", *IN_STAGE_1]
    )
    for part in IN_STAGE_2:
        assert shlex.quote(part) in stage2_command(["stage=mlm", *IN_STAGE_1])


def test_a_part_in_the_other_stages_place_is_told_with_the_right_one():
    for in_stage_1, in_stage_2 in zip(IN_STAGE_1, IN_STAGE_2, strict=True):
        assert f"with stage=mlm write {in_stage_1}" in problem_with_stage(override_in(in_stage_2), "mlm")
        told = problem_with_stage(override_in(in_stage_1), "sentiment")
        assert in_stage_2 in told
        assert problem_with_stage(override_in(in_stage_1), "mlm") is None
        assert problem_with_stage(override_in(in_stage_2), "sentiment") is None


def test_a_part_can_be_added_and_taken_away():
    register_schemas()
    for stage, parts in (("mlm", IN_STAGE_1), ("sentiment", IN_STAGE_2)):
        config = composed(prepared([f"stage={stage}", *parts]))
        objective = config.objective if stage == "mlm" else config.stage1.objective
        assert set(objective.parts) == {"bow", "decoder"}


def test_a_part_with_a_label_of_its_own_is_told(program, capsys):
    parts = ["+objective.parts.x={name: bow}", "objective.partz.bow.weight=1"]
    assert program("stage=mlm", "objective=combined", *parts) == 2
    printed = capsys.readouterr().err
    assert "objective.parts.x: must be called bow" in printed
    assert "objective.partz" in printed
    assert "did you mean objective.parts" in printed
