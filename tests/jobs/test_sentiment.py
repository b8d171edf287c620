"""What enters the key of a stage-2 run, and what does not. Settings come as a person gives them."""

import pytest

from helpers import SMALL_STAGE2, settings
from poolwise.jobs import SentimentJob
from poolwise.jobs.sentiment import labelled_corpus
from poolwise.settings import UserError


def stage2_identity(*overrides: str):
    return SentimentJob(settings("stage=sentiment", "encoder=base", *SMALL_STAGE2, *overrides)).identity


@pytest.mark.parametrize(
    "change",
    [
        *("seed=2", "repr=mean", "repr.layer=1", "protocol.epochs=2", "data.label_noise=0.1", "data.test=39"),
        "model.hidden_size=34",
    ],
)
def test_what_changes_numbers_changes_the_key_of_stage_2(change):
    assert stage2_identity(change).key != stage2_identity().key


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


def test_files_without_labels_cannot_be_classified(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")
    found = settings("stage=sentiment", "data=files", f"data.text={tmp_path / 'texts.txt'}")
    with pytest.raises(UserError, match="needs labelled files"):
        labelled_corpus(found)
