"""What enters the key of a stage-1 run, and what does not. Settings come as a person gives them."""

import json

import pytest

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2, settings
from poolwise import encoder
from poolwise.jobs import MLMJob
from poolwise.jobs.stage1 import stage1_identity


def stage1_key(*overrides: str) -> str:
    return MLMJob(settings("stage=mlm", *SMALL_STAGE1, *overrides)).identity.key


@pytest.mark.parametrize(
    "change",
    [
        "seed=2",
        "objective=none",
        "objective.weight=2",
        "pretraining.epochs=2",
        "pretraining.budget=3steps",
        "pretraining.masking.mask_probability=0.2",
        "pretraining.pooler_init=fresh",
        "data.text=95",
        "data.text_dev=31",
        "data.seed=1",
        "data.max_length=40",
        "data.long_texts=head_tail",
        "model.layers=3",
        "model.vocabulary_size=380",
        "trainer.precision=64-true",
        "+trainer.max_steps=2",
    ],
)
def test_what_changes_numbers_changes_the_key_of_stage_1(change):
    assert stage1_key(change) != stage1_key()


@pytest.mark.parametrize(
    "change",
    [
        "workers=2",
        "logger=csv",
        "runs_dir=elsewhere",
        "cache_dir=elsewhere",
        "trainer.log_every_n_steps=1",
        "+trainer.accumulate_grad_batches=1",
        "+trainer.benchmark=true",
        "trainer.precision=32",
        "data.name=other",
        "data.train=70",
        "data.label_noise=0.1",
        "data.window_overlap=0.5",
        "objective.weight=3",
        "model.finetune_learning_rate=0.1",
    ],
)
def test_what_changes_no_number_of_stage_1_leaves_its_key(change):
    assert stage1_key(change) == stage1_key()


def test_a_budget_is_known_by_what_it_comes_to_and_takes_the_place_of_epochs():
    keys = {stage1_key(f"pretraining.budget={written}", "pretraining.epochs=7") for written in ("2min", "120s")}
    assert keys == {stage1_key("pretraining.budget=120.0s")}
    first = MLMJob(settings("stage=mlm", *SMALL_STAGE1, "pretraining.budget=2min")).identity
    second = settings("stage=sentiment", *SMALL_STAGE2, "stage1.budget=2min")
    assert stage1_identity(second, second.stage1, second.trainer) == first
    assert first.name == "demo-tiny-bow-120s-seed1"


def test_both_stages_name_the_same_stage_1_run():
    first = settings("stage=mlm", *SMALL_STAGE1, "seed=4", "objective.weight=2")
    second = settings("stage=sentiment", *SMALL_STAGE2, "seed=9", "stage1.seed=4", "stage1.objective.weight=2")
    named = stage1_identity(second, second.stage1, second.trainer)
    assert named.key == MLMJob(first).identity.key
    assert named.name == MLMJob(first).identity.name == "demo-tiny-bow-seed4"


def test_a_pretrained_model_is_known_by_its_weights(config, model, tokenizer, tmp_path):
    provenance = {"pooler_status": "trained", "parts": {}}
    keys = []
    for name, bias in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        model.bert.pooler.dense.bias.data.fill_(bias)
        encoder.export(model, tokenizer, provenance, "", tmp_path / name)
        place = [f"model.path={tmp_path / name}", "model.name=own"]
        small = [setting for setting in SMALL_STAGE1 if not setting.startswith("model.")]
        keys.append(MLMJob(settings("stage=mlm", "model=pretrained", *place, *small)).identity.key)
    assert keys[0] == keys[1] != keys[2]


def test_a_setting_that_is_no_more_is_in_keys_as_it_was_when_off():
    """Held away: without it, every run of `bow` would be done anew."""
    alone, both = (
        MLMJob(settings("stage=mlm", *SMALL_STAGE1, f"objective={name}")).identity.material["objective"]
        for name in ("bow", "combined")
    )
    assert alone["drop_stop_words"] is both["parts"]["bow"]["drop_stop_words"] is False
    assert "drop_stop_words" not in both["parts"]["halves"]
    assert settings("stage=mlm", *SMALL_STAGE1, "objective=bow").objective.keys() == alone.keys() - {"drop_stop_words"}


def test_material_is_plain_data():
    material = MLMJob(settings("stage=mlm", *SMALL_STAGE1)).identity.material
    assert json.loads(json.dumps(material)) == material
    assert str(REPOSITORY) not in json.dumps(material)
