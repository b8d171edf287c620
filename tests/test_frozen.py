"""Frozen encoders, from the command line to the record."""

import json
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from helpers import SMALL_STAGE1, SMALL_STAGE2
from poolwise import app
from poolwise.compare.records import components
from poolwise.geometry import principal_components, vector_geometry
from poolwise.stages import vectors

SMALL = [setting for setting in SMALL_STAGE2 if not setting.startswith("protocol.")]
SENTIMENT = ["stage=sentiment", "encoder=base", *SMALL, "logger=csv"]


def records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((tmp_path / "runs/sentiment").glob("*/record.json"))]


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
    classified, labels = torch.from_numpy(by_size[300].copy()), torch.tensor(list(test["label"]))
    assert run["vector_geometry"] == pytest.approx(vector_geometry(classified, labels))
    kept = components(str(next((tmp_path / "runs/sentiment").iterdir())))
    np.testing.assert_allclose(kept, principal_components(classified), atol=1e-5)
    assert predictions.loc[predictions["split"] == "dev", "component_1"].isna().all()
    assert predictions["component_1"].dtype == np.float32


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
    few = ["labels_per_class=4", "protocol.epochs=1", "protocol.batch_size=4", "seed=1"]
    assert program(*SENTIMENT, "repr=cls", *few) == 0
    (run,) = records(tmp_path)
    assert run["steps"] == 2
    assert run["protocol"] == "finetune on 4 labels a class"
    predictions = pandas.read_parquet(next((tmp_path / "runs/sentiment").iterdir()) / "predictions.parquet")
    assert (predictions["split"] == "dev").sum() == 32
    assert predictions.groupby("split")["component_2"].count().to_dict() == {"dev": 0, "test": 40}
    assert run["vector_geometry"]["texts"] == 40
    assert 0 < run["vector_geometry"]["alignment"] < 4


@pytest.mark.parametrize(
    ("name", "dense", "moves"),
    [
        ("pooler", "as_named", False),
        ("pooler", "trained", True),
        ("cls_linear", "as_named", True),
        ("cls_linear", "fixed", False),
    ],
)
def test_the_dense_layer_is_fixed_or_trained(program, tmp_path, name, dense, moves):
    settings = [*SENTIMENT, "protocol=frozen", "protocol.epochs=1", f"repr={name}", "seed=1", f"protocol.dense={dense}"]
    places = [f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}"]
    job = app.planned(app.composed([*settings, *places]), [])
    lightning.seed_everything(1, verbose=False)
    before = {key: value for key, value in job.build()[0].state_dict().items() if "dense.weight" in key}
    assert program(*settings) == 0
    weights = torch.load(next((tmp_path / "runs/sentiment").glob("*/best.ckpt")), weights_only=True)["state_dict"]
    (key,) = before
    assert torch.equal(weights[key], before[key]) is not moves
    assert not any(".encoder." in key for key in weights)


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
