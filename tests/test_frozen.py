"""Frozen encoders, from the command line to the record."""

import json
import shutil
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2, kept_weights, settings
from poolwise import app, encoder
from poolwise.compare.records import Condition, components, matched, read_runs
from poolwise.data.demo import generate_reviews
from poolwise.data.draws import stratified_folds
from poolwise.geometry import principal_components, vector_geometry
from poolwise.jobs import FoldsJob
from poolwise.stages import vectors
from poolwise.stages.probe import STRENGTHS

SMALL = [setting for setting in SMALL_STAGE2 if not setting.startswith("protocol.")]
FILM_SENTENCES = REPOSITORY.parent / "shared/data/mr"
SENTIMENT = ["stage=sentiment", "encoder=base", *SMALL, "logger=csv"]


def records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((tmp_path / "runs/sentiment").glob("*/record.json"))]


@pytest.mark.slow
def test_texts_are_read_once_for_all_representations_and_both_protocols(program, tmp_path, monkeypatch):
    read = []
    encode = vectors.encode
    monkeypatch.setattr(vectors, "encode", lambda *arguments: (read.append(len(arguments[1])), encode(*arguments)))
    assert program(*SENTIMENT, "protocol=probe", "repr=cls,mean,pooler,cls_mean", "seed=1", "-m") == 0
    assert program(*SENTIMENT, "protocol=probe", "repr=mean", "repr.layer=1", "seed=1") == 0
    assert program(*SENTIMENT, "protocol=frozen", "protocol.epochs=2", "repr=layer_mix,cls_linear", "seed=1", "-m") == 0
    assert sorted(read) == [32, 40, 64]
    found = records(tmp_path)
    assert {(run["protocol"], run["repr"]) for run in found} == {
        *(("probe", name) for name in ("cls", "mean", "pooler", "cls_mean", "mean@layer1")),
        *(("frozen", name) for name in ("layer_mix", "cls_linear")),
    }
    assert all(0 <= run["metrics"]["test/accuracy"] <= 1 for run in found)
    added = {run["repr"]: run["representation"]["parameters"] for run in found}
    assert added["cls"] == added["mean"] == added["cls_mean"] == 0
    assert added["pooler"] == added["cls_linear"] == 32 * 33
    assert added["layer_mix"] == 4


def test_of_an_encoder_whose_states_are_kept_the_pooler_alone_is_loaded(
    model, tokenizer, program, tmp_path, monkeypatch
):
    """And the figures are as where all of it is loaded."""
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "encoder")
    small = [setting for setting in SMALL if not setting.startswith("model.")]
    frozen = ["stage=sentiment", *small, f"encoder={tmp_path / 'encoder'}", "logger=csv", "protocol=probe", "seed=1"]
    assert program(*frozen, "repr=pooler") == 0
    (whole,) = records(tmp_path)
    shutil.rmtree(tmp_path / "runs/sentiment")
    with monkeypatch.context() as patched:
        patched.setattr(encoder, "load_encoder", lambda *arguments, **named: pytest.fail("loaded"))
        assert program(*frozen, "repr=pooler") == 0
    (alone,) = records(tmp_path)
    same = ("key", "metrics", "strength", "pooler_status", "representation", "vector_geometry", "temperature")
    assert {name: alone[name] for name in same} == {name: whole[name] for name in same}


def test_a_probe_agrees_with_scikit_learn_on_the_same_vectors(program, tmp_path):
    assert program(*SENTIMENT, "protocol=probe", "repr=mean", "seed=1", "data.train=400", "data.test=300") == 0
    (run,) = records(tmp_path)
    assert run["strength"] in run["material"]["protocol"]["strengths"]
    kept = {file.parent.name: np.load(file) for file in (tmp_path / "cache/states").glob("*/mean.npy")}
    by_size = {states.shape[1]: states[-1] for states in kept.values()}
    predictions = pandas.read_parquet(next((tmp_path / "runs/sentiment").iterdir()) / "predictions.parquet")
    corpus = app.planned(app.composed([*SENTIMENT, "data.train=400", "data.test=300"]), []).corpus
    labels = np.array(corpus.labelled["train"]["label"])
    scaler = StandardScaler().fit(by_size[400])
    reference = LogisticRegression(C=run["strength"], max_iter=5000).fit(scaler.transform(by_size[400]), labels)
    test = predictions[predictions["split"] == "test"]
    expected = reference.score(scaler.transform(by_size[300]), test["label"])
    assert run["metrics"]["test/accuracy"] == pytest.approx(expected, abs=0.003)
    divided = torch.tensor(np.stack(test["logits"])) / run["temperature"]
    loss = torch.nn.functional.cross_entropy(divided, torch.tensor(list(test["label"])))
    assert run["calibrated"]["test/loss"] == pytest.approx(float(loss), rel=1e-4)
    assert run["calibrated"].keys() == {"test/loss", "test/calibration_error"}
    classified, labels = torch.from_numpy(by_size[300].copy()), torch.tensor(list(test["label"]))
    assert run["vector_geometry"] == pytest.approx(vector_geometry(classified, labels))
    kept = components(str(next((tmp_path / "runs/sentiment").iterdir())))
    np.testing.assert_allclose(kept, principal_components(classified), atol=1e-5)
    assert predictions.loc[predictions["split"] == "dev", "component_1"].isna().all()
    assert predictions["component_1"].dtype == np.float32


@pytest.mark.slow
@pytest.mark.skipif(not FILM_SENTENCES.is_dir(), reason="the film sentences of shared/data/mr are not here")
def test_a_probe_of_real_vectors_agrees_with_scikit_learn(program, tmp_path):
    """The whole of it by scikit-learn, with the choice of the penalty on dev."""
    files = [f"data.{split}={FILM_SENTENCES / split}.tsv" for split in ("train", "dev", "test")]
    settings = ["stage=sentiment", "data=files", *files, "data.max_length=64", "model=minilm", "encoder=base"]
    settings += ["protocol=probe", "repr=mean", "seed=1", "logger=csv"]
    assert program(*settings) == 0
    (run,) = records(tmp_path)
    places = [f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}"]
    job = app.planned(app.composed([*settings, *places]), [])
    texts = job.texts()
    states = {split: kept.kept["mean"][-1] for split, kept in job.stored(None, texts).items()}
    scaler = StandardScaler().fit(states["train"])
    standard = {split: scaler.transform(vectors) for split, vectors in states.items()}
    models = [LogisticRegression(C=c, max_iter=5000).fit(standard["train"], texts["train"].labels) for c in STRENGTHS]
    scores = [f1_score(texts["dev"].labels, model.predict(standard["dev"]), average="macro") for model in models]
    expected = models[int(np.argmax(scores))].score(standard["test"], texts["test"].labels)
    assert run["metrics"]["test/accuracy"] == pytest.approx(expected, abs=0.003)
    assert expected > 0.7


@pytest.mark.slow
def test_a_probe_has_no_seed_and_a_draw_of_labels_has(program, tmp_path):
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == 0
    encoder = ["stage=sentiment", *SMALL_STAGE2, "logger=csv", "protocol=probe", "repr=mean"]
    encoder = [setting for setting in encoder if not setting.startswith("protocol.")]
    assert program(*encoder, "seed=1,2,3", "-m") == 0
    assert len(records(tmp_path)) == 1
    assert program(*encoder, "labels_per_class=4", "seed=1,2,3", "-m") == 0
    draws = [run for run in records(tmp_path) if run["protocol"] == "probe on 4 labels a class"]
    assert sorted(run["label_seed"] for run in draws) == [1, 2, 3]
    assert len({run["condition"] for run in draws}) == 1
    assert program(*encoder, "labels_per_class=4", "label_seed=1", "seed=2") == 0
    assert len(records(tmp_path)) == 4  # the same draw is the same run


def test_few_labels_serve_fine_tuning_too(program, tmp_path):
    few = ["labels_per_class=4", "protocol.epochs=1", "protocol.batch_size=4", "protocol.least_steps=5", "seed=1"]
    assert program(*SENTIMENT, "repr=cls", *few) == 0
    (run,) = records(tmp_path)
    assert run["steps"] == 6  # of two batches, the fewest passes that make five
    assert run["protocol"] == "finetune on 4 labels a class"
    predictions = pandas.read_parquet(next((tmp_path / "runs/sentiment").iterdir()) / "predictions.parquet")
    assert (predictions["split"] == "dev").sum() == 32
    assert predictions.groupby("split")["component_2"].count().to_dict() == {"dev": 0, "test": 40}
    assert run["vector_geometry"]["texts"] == 40
    assert 0 < run["vector_geometry"]["alignment"] < 4


@pytest.fixture
def all_in_one(tmp_path: Path) -> list[str]:
    """120 labelled texts in one file, and the settings that name it."""
    reviews = generate_reviews(120, seed=3, label_noise=0.0)
    rows = [{"text": review.text, "label": review.label} for review in reviews]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = [setting for setting in SMALL if not setting.startswith("data.") or "max_length" in setting]
    return ["data=files", f"data.train={tmp_path / 'all.jsonl'}", *kept, "logger=csv"]


@pytest.mark.slow
def test_without_splits_every_text_is_predicted_once_as_by_scikit_learn(program, tmp_path, all_in_one):
    stage1 = [setting.replace("stage1.", "pretraining.") for setting in all_in_one]
    assert program("stage=mlm", *stage1) == 0
    folds = ["stage=sentiment", *all_in_one, "protocol=probe", "protocol.folds=3"]
    assert program(*folds, "repr=cls,mean", "seed=1,2", "-m") == 0
    runs = read_runs(tmp_path / "runs", "sentiment")
    assert set(runs["protocol"]) == {"probe in 3 folds"}
    assert runs["setting"].nunique() == 1
    assert sorted(zip(runs["repr"], runs["label_seed"], strict=True)) == [
        ("cls", 1),
        ("cls", 2),
        ("mean", 1),
        ("mean", 2),
    ]
    of_mean = runs[(runs["repr"] == "mean") & (runs["label_seed"] == 1)].iloc[0]
    predictions = pandas.read_parquet(Path(of_mean["folder"]) / "predictions.parquet")
    assert list(predictions["example"]) == list(range(120))
    assert set(predictions["split"]) == {"test"}
    assert predictions["component_1"].notna().all()
    (file,) = (tmp_path / "cache/states").glob("*/mean.npy")
    vectors, labels = np.load(file)[-1], predictions["label"].to_numpy()
    expected, scores = nested_answers(vectors, labels, stratified_folds(labels, ("0", "1"), 3, seed=1))
    assert of_mean["test/accuracy"] == pytest.approx((expected == labels).mean(), abs=0.003)
    assert of_mean["dev/macro_f1"] == pytest.approx(np.mean(scores), abs=0.003)
    pairs = matched([Condition(runs[runs["repr"] == name]) for name in ("cls", "mean")])
    seeds = runs.set_index("folder")["label_seed"]
    assert [[seeds[folder] for folder in folders] for (folders,) in pairs] == [[1, 2], [1, 2]]
    assert set(runs["stage1_saw_test_text"]) == {True}
    assert set(runs["test_texts_in_stage1"]) == {84}  # the rest are the dev and test that its stage made


def test_near_copies_are_in_one_fold_where_they_are_looked_for(tmp_path, all_in_one):
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:30]]
    rows += [{**row, "text": f"{row['text']} Really."} for row in rows]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "seed=1"]
    probe = ["stage=sentiment", "encoder=base", *all_in_one, "protocol=probe", "protocol.folds=3", "repr=mean", *places]
    apart, keys = [], []
    for near in ("false", "true"):
        job = app.job_of(settings(*probe, f"data.near_copies={near}"))
        assert isinstance(job, FoldsJob)
        apart.append(int((job.folds[:30] != job.folds[30:]).sum()))
        keys.append(job.identity.key)
    assert apart[0] > 0 == apart[1]
    assert keys[0] != keys[1]


def test_splits_that_are_made_are_recorded(program, tmp_path, all_in_one):
    probe = ["stage=sentiment", "encoder=base", *all_in_one, "protocol=probe", "repr=mean", "seed=1"]
    assert program(*probe, "data.split_seed=3", "data.test_share=0.25") == 0
    (run,) = [json.loads(file.read_text()) for file in (tmp_path / "runs/sentiment").glob("*/record.json")]
    made = {"from": "train", "seed": 3, "stratified": True}
    assert run["made_splits"] == {
        "test": {**made, "share": 0.25, "texts": 30},
        "dev": {**made, "share": 0.1, "texts": 12},
    }
    predictions = pandas.read_parquet(next((tmp_path / "runs/sentiment").glob("*/predictions.parquet")))
    assert predictions["split"].value_counts().to_dict() == {"test": 30, "dev": 12}
    assert list((tmp_path / "cache/rows").glob("*")) == list((tmp_path / "cache/rows").glob("*.arrow"))


def nested_answers(vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Each text's class by scikit-learn, of a probe on the other folds, and what it scores inside these."""
    answers, scores = np.empty_like(labels), []
    for fold in range(folds.max() + 1):
        others = folds != fold
        split = PredefinedSplit(folds[others])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        grid = {"logisticregression__C": STRENGTHS}
        search = GridSearchCV(model, grid, cv=split, scoring="f1_macro").fit(vectors[others], labels[others])
        answers[~others] = search.predict(vectors[~others])
        scores.append(search.best_score_)
    return answers, scores


def test_what_folds_are_not_for_is_told_before_work(program, tmp_path, all_in_one, capsys):
    files = ["stage=sentiment", "encoder=base", *all_in_one]
    for refused, words in (
        ([*files, "protocol=probe", "protocol.folds=2"], "protocol.folds=2: must be at least 3"),
        ([*files, "protocol=probe", "protocol.folds=90"], "protocol.folds=90: the training texts hold"),
        (
            [*files, "protocol=probe", "protocol.folds=4", "labels_per_class=4"],
            "labels_per_class=4: with protocol.folds=4",
        ),
        ([*SENTIMENT, "protocol=probe", "protocol.folds=4"], "protocol.folds=4: data=demo has dev and test"),
    ):
        assert program(*refused) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "runs/sentiment").exists()


@pytest.mark.parametrize(
    ("name", "dense", "moves"),
    [
        ("pooler", "as_named", False),
        pytest.param("pooler", "trained", True, marks=pytest.mark.slow),
        ("cls_linear", "as_named", True),
        pytest.param("cls_linear", "fixed", False, marks=pytest.mark.slow),
    ],
)
def test_the_dense_layer_is_fixed_or_trained(program, tmp_path, name, dense, moves):
    settings = [*SENTIMENT, "protocol=frozen", "protocol.epochs=1", f"repr={name}", "seed=1", f"protocol.dense={dense}"]
    places = [f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}"]
    app.register_schemas()
    job = app.planned(app.composed([*settings, *places]), [])
    lightning.seed_everything(1, verbose=False)
    before = {key: value for key, value in job.build()[0].state_dict().items() if "dense.weight" in key}
    assert program(*settings) == 0
    weights = kept_weights(next((tmp_path / "runs/sentiment").glob("demo-*")))
    (key,) = before
    assert torch.equal(weights[key.removeprefix("classifier.")], before[key]) is not moves


def test_what_stored_states_cannot_serve_is_told_before_work(program, tmp_path, capsys):
    assert program(*SENTIMENT, "protocol=probe", "repr=cls_linear") == 2
    assert "repr=cls_linear: has parameters of its own" in capsys.readouterr().err
    assert program(*SENTIMENT, "protocol=frozen", "repr=attention") == 2
    assert "repr=attention: reads the states of all tokens" in capsys.readouterr().err
    assert program(*SENTIMENT, "protocol=probe", "protocol.strengths=[]", "labels_per_class=0") == 2
    said = capsys.readouterr().err
    assert "protocol.strengths=[]: must be a list of one or more, each a number" in said
    assert "labels_per_class=0: must be at least 1" in said
    assert program(*SENTIMENT, "protocol=probe", "labels_per_class=60") == 2
    assert "labels_per_class=60: the training texts hold" in capsys.readouterr().err
    assert not (tmp_path / "runs/sentiment").exists()
