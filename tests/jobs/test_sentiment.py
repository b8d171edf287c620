"""What enters the key of a stage-2 run, and what does not. Settings come as a person gives them."""

import json

import pandas
import pytest
import torch

from helpers import SMALL_RUN, SMALL_STAGE2, settings
from poolwise import encoder
from poolwise.jobs import SentimentJob
from poolwise.jobs.sentiment import labelled_corpus
from poolwise.runs import NUMERICS_VERSION, hash_of
from poolwise.settings import UserError

FEW_GOOD = [("dull", "bad"), ("poor", "bad"), ("sad", "bad"), ("weak", "bad"), ("fine", "good")]


def stage2_identity(*overrides: str):
    return SentimentJob(settings("stage=sentiment", "encoder=base", *SMALL_STAGE2, *overrides)).identity


@pytest.mark.parametrize(
    "change",
    [
        *("seed=2", "repr=mean", "repr.layer=1", "protocol.epochs=2", "data.label_noise=0.1", "data.test=39"),
        *("model.hidden_size=34", "data.long_texts=tail", "data.long_texts=windows"),
    ],
)
def test_what_changes_numbers_changes_the_key_of_stage_2(change):
    assert stage2_identity(change).key != stage2_identity().key


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        (["labels_per_class=8"], 100),
        (["labels_per_class=8", "protocol.epochs=3"], 34),
        (["labels_per_class=8", "protocol.batch_size=4"], 25),
        (["labels_per_class=8", "protocol.least_steps=0"], 1),
        (["labels_per_class=8", "protocol.epochs=3", "+trainer.accumulate_grad_batches=4"], 134),
        (["labels_per_class=null"], 1),
    ],
)
def test_few_labels_are_read_so_often_that_training_has_its_steps(given, passes):
    job = SentimentJob(settings("stage=sentiment", "encoder=base", *SMALL_STAGE2, *given))
    assert job.passes == passes
    assert job.identity.material.get("labels", {}).get("passes_an_epoch", 1) == passes
    assert "least_steps" not in job.identity.material["protocol"]


def states_folders(*overrides: str):
    given = ["stage=sentiment", "encoder=base", "protocol=frozen", *SMALL_STAGE2, *overrides]
    return SentimentJob(settings(*given)).states_folders


@pytest.mark.parametrize(
    "change",
    [
        *("data.max_length=47", "data.long_texts=tail", "data.long_texts=windows", "data.label_noise=0.1"),
        *("seed=2", "model.hidden_size=34", "model.vocabulary_size=300"),
    ],
)
def test_what_changes_states_changes_where_they_are_kept(change):
    assert not set(states_folders(change).values()) & set(states_folders().values())


@pytest.mark.parametrize(
    "change", ["repr=mean", "repr.layer=1", "labels_per_class=4", "label_seed=2", "head_seed=2", "pooler_seed=2"]
)
def test_states_are_shared_by_all_that_reads_them(change):
    assert states_folders(change) == states_folders()


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


def test_the_key_of_a_default_run_is_what_it_was():
    """Held away: finished runs of before there were the settings of fine-tuning and the seeds apart, done again."""
    identity = stage2_identity()
    material = {**identity.material, **dict.fromkeys(("weights", "tokenizer", "labelled"), "")}
    assert identity.key == hash_of([NUMERICS_VERSION, identity.material])
    assert hash_of([1, material]) == "ace573df5f241ade72cb58f95921b56fb98816ccf7efff8e92645823e794c57a"
    assert material["protocol"].keys() == {"name", "epochs", "batch_size", "dropout", "optimisation"}


@pytest.mark.parametrize(
    ("protocol", "imbalance"),
    [
        ("probe", "class_weights"),
        pytest.param("frozen", "balanced_sampling", marks=pytest.mark.slow),
        ("finetune", {"good": 3.0, "bad": 0.5}),
    ],
)
def test_figures_of_each_class_are_told_where_classes_are_unbalanced(
    program, tmp_path, capsys, protocol, imbalance, monkeypatch
):
    rows = [f"the {word} film number {n},{label}" for n in range(12) for word, label in FEW_GOOD[: 4 if n % 3 else 5]]
    (tmp_path / "own.csv").write_text("\n".join(["text,label", *rows]))
    monkeypatch.chdir(tmp_path)
    small = [word for word in SMALL_RUN if not word.startswith("data.")]
    small += [] if protocol == "probe" else ["protocol.epochs=1"]
    own = [
        "data=files",
        "data.train=own.csv",
        f"protocol={protocol}",
        f"protocol.imbalance={imbalance}".replace("'", ""),
    ]
    assert program("stage=sentiment", "encoder=base", *small, *own, "logger=csv", "seed=1") == 0
    (run,) = [json.loads(file.read_text()) for file in (tmp_path / "runs/sentiment").glob("*/record.json")]
    assert run["material"]["protocol"]["imbalance"] == imbalance
    recall = run["test_recall"]
    assert list(recall) == ["bad", "good"]
    assert run["metrics"]["test/balanced_accuracy"] == pytest.approx(sum(recall.values()) / 2)
    shown = capsys.readouterr().out
    assert f"test/balanced_accuracy {run['metrics']['test/balanced_accuracy']:.4f}" in shown
    assert f"recall  bad {recall['bad']:.4f}, good {recall['good']:.4f} (on test)" in shown


def test_the_overlap_of_windows_matters_to_windows_alone():
    assert stage2_identity("data.window_overlap=0.5") == stage2_identity()
    windows = stage2_identity("data.long_texts=windows")
    assert windows.key != stage2_identity("data.long_texts=windows", "data.window_overlap=0.5").key
    assert windows.material.items() >= {"long_texts": "windows", "window_overlap": 0.25}.items()


@pytest.mark.parametrize("protocol", ["finetune", pytest.param("frozen", marks=pytest.mark.slow), "probe"])
def test_long_texts_are_read_in_windows(program, tmp_path, protocol):
    small = [*SMALL_RUN, "protocol.epochs=1"] if protocol != "probe" else SMALL_RUN
    own = [f"protocol={protocol}", "data.max_length=10", "data.long_texts=windows", "labels_per_class=20"]
    assert program("stage=sentiment", "encoder=base", *small, *own, "logger=csv", "seed=1") == 0
    (run,) = [json.loads(file.read_text()) for file in (tmp_path / "runs/sentiment").glob("*/record.json")]
    assert run["data_report"]["truncated"] == {"train": 0.0, "dev": 0.0, "test": 0.0}
    assert run["representation"]["formula"].endswith("; mean over the windows of a text")
    (predictions,) = (tmp_path / "runs/sentiment").glob("*/predictions.parquet")
    assert pandas.read_parquet(predictions)["split"].value_counts().to_dict() == {"test": 40, "dev": 32}


@pytest.mark.parametrize(
    "change",
    [
        *("layer_decay=0.9", "reinitialise.top_layers=1", "reinitialise.pooler=true", "gradual_unfreezing=true"),
        *("early_stopping=1", "imbalance=class_weights", "imbalance=balanced_sampling"),
    ],
)
def test_a_setting_of_fine_tuning_that_is_on_enters_the_key(change):
    assert stage2_identity("repr=pooler", f"protocol.{change}").key != stage2_identity("repr=pooler").key


def test_a_pooler_that_is_not_read_is_not_drawn_anew():
    assert stage2_identity("repr=mean", "protocol.reinitialise.pooler=true") == stage2_identity("repr=mean")


@pytest.mark.parametrize(
    ("change", "status"),
    [("pooler=false", "trained"), ("pooler=true", "random"), ("top_layers=1", "stale")],
)
def test_the_status_of_a_pooler_that_was_drawn_anew(config, model, tokenizer, tmp_path, change, status):
    model.bert.pooler.dense.bias.data.fill_(1.0)
    encoder.export(model, tokenizer, {"pooler_status": "trained", "parts": {}}, "", tmp_path / "export")
    small = [setting for setting in SMALL_STAGE2 if not setting.startswith("model.")]
    given = ["stage=sentiment", f"encoder={tmp_path / 'export'}", "repr=pooler", "data.max_length=32", *small]
    job = SentimentJob(settings(*given, f"protocol.reinitialise.{change}"))
    body, _ = job.load()
    assert job.pooler_status == status
    same = {name: torch.equal(model.bert.state_dict()[name], tensor) for name, tensor in body.state_dict().items()}
    assert same["pooler.dense.weight"] == (change != "pooler=true")
    assert same["encoder.layer.1.output.dense.weight"] == (change != "top_layers=1")
    assert same["encoder.layer.0.output.dense.weight"]


@pytest.mark.slow
def test_training_stops_early(program, tmp_path):
    """Dev stays as it is after the first epoch; two more are waited for."""
    still = ["protocol.optimisation.learning_rate=1e-9", "protocol.epochs=9", "protocol.early_stopping=2"]
    assert program("stage=sentiment", "encoder=base", *SMALL_STAGE2, *still, "logger=csv", "seed=1") == 0
    (run,) = [json.loads(file.read_text()) for file in (tmp_path / "runs/sentiment").glob("*/record.json")]
    assert (run["epochs"], run["steps"]) == (3, 12)
    assert run["material"]["protocol"]["early_stopping"] == 2


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


def test_all_labels_are_the_same_run_as_none_drawn():
    def identity(*overrides: str):
        return SentimentJob(settings("stage=sentiment", "encoder=base", *SMALL_STAGE2, *overrides)).identity

    assert identity("labels_per_class=all").key == identity("labels_per_class=null").key == identity().key
    assert identity("labels_per_class=8").key != identity().key
