"""A seed for each source of variance in stage 2: what each decides, and which runs it tells apart."""

import lightning
import pytest
import torch

from helpers import SMALL_STAGE2, settings
from poolwise import encoder
from poolwise.compare.records import Condition, read_runs
from poolwise.jobs import ProbeJob, SentimentJob

SMALL_PROBE = [setting for setting in SMALL_STAGE2 if not setting.startswith("protocol.")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache of tokens lies where the program starts."""
    monkeypatch.chdir(tmp_path)


def job_of(*overrides: str) -> SentimentJob:
    return SentimentJob(settings("stage=sentiment", "encoder=base", *SMALL_STAGE2, *overrides))


def random_parts(*overrides: str) -> dict[str, list]:
    """What is random when training starts."""
    job = job_of("labels_per_class=8", *overrides)
    lightning.seed_everything(job.seed, verbose=False)
    stage, data = job.build()
    built = stage.classifier
    dense = built.representation.dense if built.pooler is None else built.pooler.dense
    return {
        "encoder": built.encoder.encoder.layer[0].output.dense.weight.tolist(),
        "pooler": dense.weight.tolist(),
        "head": built.head.weight.tolist(),
        "dropout": torch.rand(4).tolist(),
        "order": [request for batch in data.train_dataloader().sampler for request in batch],
        "labels": job.drawn.tolist(),
    }


@pytest.mark.parametrize("name", ["pooler", "cls_linear"])
def test_each_seed_decides_its_own_part_alone(name):
    usual = random_parts(f"repr={name}")
    for change, parts in {
        "head_seed=2": {"head", "dropout"},
        "order_seed=2": {"order"},
        "pooler_seed=2": {"pooler"},
        "label_seed=2": {"labels", "order"},  # batches are of like length, and other texts have other lengths
        "seed=2 label_seed=1 head_seed=1 order_seed=1 pooler_seed=1": {"encoder"},
        "seed=2": set(usual),
    }.items():
        found = random_parts(f"repr={name}", *change.split())
        assert {part for part in usual if found[part] != usual[part]} == parts, change


def test_batches_by_tokens_are_another_run_and_batches_by_texts_the_run_they_were():
    by_texts, by_tokens = (job_of(f"protocol.batch_tokens={count}") for count in ("null", "400"))
    assert "batch_tokens" not in by_texts.identity.material["protocol"]
    assert by_tokens.identity.material["protocol"]["batch_tokens"] == 400
    data = by_tokens.build()[1]
    assert data.batches_an_epoch == -(-int(data.texts["train"].lengths.sum()) // 400)


def test_layers_are_drawn_anew_by_the_poolers_seed():
    weights = [
        job_of("protocol.reinitialise.top_layers=1", change).load()[0].encoder.layer[1].output.dense.weight
        for change in ("seed=1", "head_seed=2", "pooler_seed=2")
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_seed_of_its_own_enters_key_and_name_but_not_the_condition():
    usual, *others = (job_of("repr=cls_linear", *change).identity for change in ([], ["head_seed=2"], ["order_seed=2"]))
    assert [identity.name.removeprefix("demo-tiny-base-cls_linear-finetune-") for identity in (usual, *others)] == [
        "seed1",
        "seed1-headseed2-orderseed1-poolerseed1",
        "seed1-headseed1-orderseed2-poolerseed1",
    ]
    assert len({identity.key for identity in (usual, *others)}) == 3
    assert len({identity.group for identity in (usual, *others)}) == 1


@pytest.mark.slow
def test_seeds_that_are_all_the_same_are_one_seed(config, model, tokenizer, tmp_path):
    encoder.export(model, tokenizer, {"pooler_status": "trained", "parts": {}}, "", tmp_path / "export")
    small = [setting for setting in SMALL_STAGE2 if not setting.startswith("model.")]
    given = ["stage=sentiment", f"encoder={tmp_path / 'export'}", "repr=pooler", "data.max_length=32", *small]

    def identity(*seeds: str):
        return SentimentJob(settings(*given, *seeds)).identity

    assert identity("head_seed=2", "order_seed=2") == identity("seed=2")
    assert identity("pooler_seed=2") == identity()  # the export has a pooler
    assert identity("head_seed=2").flat | {"stage1_seed": 0} == {
        **identity().flat,
        **{"seed": 1, "head_seed": 2, "order_seed": 1, "pooler_seed": None, "label_seed": None, "stage1_seed": 0},
    }


def test_seeds_that_change_nothing_in_a_probe_do_not_tell_runs_apart():
    given = ["stage=sentiment", "encoder=base", "protocol=probe", *SMALL_PROBE]

    def identity(*overrides: str):
        return ProbeJob(settings(*given, *overrides)).identity

    changes = ("head_seed=2", "order_seed=2", "pooler_seed=2", "label_seed=2")
    assert {identity("repr=mean", change).key for change in changes} == {identity("repr=mean").key}
    assert identity("repr=pooler", "pooler_seed=2").key != identity("repr=pooler").key
    assert identity("repr=pooler", "pooler_seed=2").name.endswith("-seed1-poolerseed2")


@pytest.mark.slow
def test_a_sweep_over_the_heads_seed(program, tmp_path, capsys):
    small = ["stage=sentiment", "encoder=base", "repr=mean", *SMALL_STAGE2, "logger=csv"]
    assert program(*small, "head_seed=1,2", "seed=1", "-m") == 0
    runs = read_runs(tmp_path / "runs", "sentiment")
    assert sorted(runs["head_seed"]) == [1, 2]
    assert set(runs["seed"]) == set(runs["order_seed"]) == {1}
    assert runs["pooler_seed"].isna().all()
    assert runs["label_seed"].isna().all()
    assert runs["condition"].nunique() == 1
    assert runs["dev/loss"].nunique() == 2
    assert "(2 runs)" in capsys.readouterr().out
    assert Condition(runs).answers()[0].shape == (1, 2, 40)
