import json
import re
import shlex
from pathlib import Path

import hydra
import numpy as np
import pandas
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import BertForMaskedLM, BertModel

from helpers import REPOSITORY, SMALL_RUN, SMALL_STAGE1, SMALL_STAGE2, read_wandb, settings
from poolwise import app
from poolwise.app import register_schemas, typed_settings
from poolwise.command_line import conf_dir
from poolwise.compare.report import write_report
from poolwise.data.sources import load_corpus
from poolwise.objectives import OBJECTIVES
from poolwise.representations import REPRESENTATIONS
from poolwise.settings import MLMSettings, SentimentSettings, UserError
from poolwise.stages import loop
from poolwise.trained import load

CONF = REPOSITORY / "conf"
NOT_COMPOSED = {"wandb_sweep"}
"""For the program `wandb`; see test_wandb.py."""
FILES = sorted({str(file.relative_to(CONF).with_suffix("")) for file in CONF.rglob("*.yaml")} - NOT_COMPOSED)


def compose(*overrides: str):
    register_schemas()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=False)


def overrides_for(file: str) -> list[str]:
    """The command line that composes a file of `conf/`."""
    if file in ("train", "hydra/job_logging/poolwise", "hydra/hydra_logging/poolwise"):
        return ["stage=mlm"]
    group, choice = file.split("/")
    stage = "sentiment" if group in ("repr", "protocol") else "mlm"
    extra = {
        "model/pretrained": ["model.path=somewhere"],
        "control/equal_time": ["control.run=somewhere"],
        "control/own_pooler": ["model=minilm"],
        "control/fresh_poolers": ["model=minilm"],
    }.get(file, [])
    selected = [] if group == "stage" else [f"{group}={choice}"]
    return [f"stage={choice}" if group == "stage" else f"stage={stage}", *selected, *extra]


@pytest.mark.parametrize(("model", "rates"), [("tiny", "0.001,0.002,0.004"), ("minilm", "2.5e-05,5e-05,0.0001")])
def test_a_sweep_over_rates_has_those_around_the_models(model, rates):
    register_schemas()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        given = ["stage=sentiment", "protocol=finetune_rates", f"model={model}"]
        cfg = hydra.compose("train", overrides=given, return_hydra_config=True)
    assert dict(cfg.hydra.sweeper.params) == {"seed": "1,2,3", "protocol.optimisation.learning_rate": rates}
    assert cfg.protocol.optimisation.learning_rate == float(rates.split(",")[1])


def test_a_sweep_over_frozen_heads_has_three_rates_and_trains_both_dense_layers():
    register_schemas()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        given = ["stage=sentiment", "protocol=frozen_rates"]
        cfg = hydra.compose("train", overrides=given, return_hydra_config=True)
    rates = "1.0e-3,4.0e-3,1.6e-2"
    assert dict(cfg.hydra.sweeper.params) == {"seed": "1,2,3", "protocol.optimisation.learning_rate": rates}
    assert (cfg.protocol.dense, cfg.protocol.optimisation.learning_rate) == ("trained", 4e-3)


def test_every_config_file_is_known_here():
    assert {file.split("/")[0] for file in FILES} == {
        "train",
        "stage",
        "pretraining",
        "model",
        "objective",
        "repr",
        "protocol",
        "data",
        "trainer",
        "logger",
        "experiment",
        "control",
        "hydra",
    }


@pytest.mark.parametrize("file", FILES)
def test_every_config_file_composes_and_instantiates(file):
    settings = typed_settings(compose(*overrides_for(file)))
    assert isinstance(settings, SentimentSettings if "stage=sentiment" in overrides_for(file) else MLMSettings)
    group, _, choice = file.partition("/")
    named = {"model": settings.model, "data": settings.data, "logger": settings.logger}
    if group in named:
        assert named[group].name == choice


def test_every_objective_and_representation_can_be_chosen():
    for name in OBJECTIVES:
        assert typed_settings(compose("stage=mlm", f"objective={name}")).objective["name"] == name
    for name in REPRESENTATIONS:
        assert typed_settings(compose("stage=sentiment", f"repr={name}")).representation["name"] == name


def test_every_experiment_file_has_its_folder():
    names = {file.split("/")[1] for file in FILES if file.startswith("experiment/")}
    assert names
    assert all((REPOSITORY / "experiments" / name / "README.md").is_file() for name in names)


def test_the_config_stops_at_app():
    sources = [file for file in (REPOSITORY / "src/poolwise").rglob("*.py") if file.name != "app.py"]
    assert len(sources) > 20
    assert [file for file in sources if re.search(r"DictConfig|\bcfg\b|omegaconf", file.read_text())] == []


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["stage=mlm", "pretraining.epochs=0"], ["pretraining.epochs=0: must be at least 1"]),
        (["stage=mlm", "+pretrainin.epochs=2"], ["pretrainin: no such setting (did you mean pretraining?)"]),
        (
            ["stage=mlm", "+objective.wieght=2"],
            ["objective.wieght=2: no such setting (did you mean objective.weight?)"],
        ),
        (
            ["stage=mlm", "+trainer.max_step=2"],
            ["trainer.max_step=2: no such setting (did you mean trainer.max_steps?)"],
        ),
        (["stage=mlm", "+trainer.max_epochs=2"], ["trainer.max_epochs is set by poolwise itself"]),
        (["stage=mlm", "trainer.devices=2"], ["trainer.devices=2: must be 1, or a list of one device such as [0]"]),
        (
            ["stage=mlm", "model.hidden_size=50"],
            ["model.hidden_size=50: must be a multiple of model.attention_heads=4"],
        ),
        (
            ["stage=sentiment", "stage1.trainable=pooler", "objective@stage1.objective=none"],
            ["stage1.trainable='pooler': model=tiny is drawn at random"],
        ),
        (
            [
                *("stage=mlm", "model=minilm", "data=files", "data.text=a.txt", "data.streaming=true"),
                *(
                    "data.contamination=error",
                    "objective=rating",
                    "pretraining.trainable=pooler",
                    "data.near_copies=true",
                ),
                *("pretraining.masking.final_mask_probability=0.3", "+trainer.val_check_interval=0.5"),
            ],
            [
                "data.streaming=true: the length of a pass over data.text is not known, so epochs do not say how long "
                "training is; give pretraining.budget, above 0 with a unit, such as 2000steps, 1000000tokens, 90s, ",
                "pretraining.trainable='pooler': keeps what the frozen encoder says of each text, and ",
                "pretraining.masking.final_mask_probability=0.3: changes from epoch to epoch, and how many ",
                "objective=rating: must know all ratings, and data.streaming=true reads texts alone",
                "data.contamination='error': must read all texts before training, and ",
                "data.near_copies=true: must compare all texts before training, and ",
                "trainer.val_check_interval=0.5: a share of an epoch, whose length data.streaming=true does not know",
            ],
        ),
        (
            ["stage=sentiment", "data=files", "data.text=a.txt", "data.streaming=true", "encoder=stage1"],
            ["so epochs do not say how long training is; give stage1.budget, above 0"],
        ),
        (
            ["stage=sentiment", "stage1.masking.random_token_share=0.3"],
            ["stage1.masking: mask_token_share + random_token_share=1.1: must be at most 1"],
        ),
        (
            [
                "stage=mlm",
                "model=minilm",
                "model.add_words=5",
                "model.vocabulary_size=500",
                "pretraining.trainable=pooler",
            ],
            [
                "model.add_words=5: model.vocabulary_size=500 makes a new vocabulary of the same text; give one",
                "model.add_words=5; leave that out",
                "model.vocabulary_size=500; leave that out",
            ],
        ),
        (
            [
                "stage=mlm",
                "seed=-1",
                "data.label_noise=0.7",
                "data.domain_shift=tests",
                "model.layers=two",
                "objective.weight=-1",
            ],
            [
                "seed=-1: must be at least 0",
                "data.label_noise=0.7: must be at least 0 and below 0.5",
                "data.domain_shift='tests': must be one of none, stage2, test (did you mean test?)",
                "model.layers='two': must be a whole number",
                "objective.weight=-1: must be at least 0",
            ],
        ),
        (
            ["stage=mlm", "objective=combined", "+objective@objective.parts.sop=sop"],
            ["objective.parts: objectives that cannot share a batch"],
        ),
        (
            ["stage=mlm", "objective=combined", "objective.parts.bow.weight=-1", "+objective.parts.x={name: bow}"],
            [
                "objective.parts.bow.weight=-1: must be at least 0",
                "objective.parts.x: must be called bow, as the objective that it is",
            ],
        ),
        (
            ["stage=sentiment", "stage1.epochs=0", "stage1.objective.weight=-1", "protocol.dropout=1"],
            ["stage1.epochs=0", "stage1.objective.weight=-1", "protocol.dropout=1: must be at least 0 and below 1"],
        ),
        (
            ["stage=sentiment", "labels_per_class=8", "protocol.batch_tokens=512"],
            ["protocol.batch_tokens=512: protocol.least_steps=100, for labels_per_class=8, counts batches"],
        ),
        (
            ["stage=sentiment", "labels_per_class=8", "protocol.batch_tokens=512", "protocol.least_steps=0", "seed=-1"],
            ["seed"],
        ),
        (["stage=sentiment", "protocol.batch_tokens=512", "seed=-1"], ["seed"]),
    ],
)
def test_all_problems_are_told_together(overrides, messages):
    with pytest.raises(UserError) as error:
        typed_settings(compose(*overrides))
    for message in messages:
        assert message in str(error.value)
    assert len(error.value.messages) == len(messages)


@pytest.mark.parametrize(
    "jobs",
    [
        [["stage=sentiment", f"repr={name}", f"seed={seed}"] for name in ("cls", "mean") for seed in (1, 2)],
        [["stage=sentiment", "label_seed=${seed}", f"labels_per_class={count}", "seed=3"] for count in (4, "null")],
        [["stage=mlm", f"data.text={text}", "data=files"] for text in ("'a b,c.txt'", "d.txt")],
        [["stage=mlm", f"objective.weight={weight}", "++new=1"] for weight in (0.5, 1)],
        [["stage=mlm", f"trainer={{accelerator: cpu, devices: {count}}}", "trainer.devices=3"] for count in (1, 2)],
        [["stage=mlm", "seed=1", f"seed={seed}", f"+trainer.max_steps={seed}"] for seed in (2, 3)],
        [["stage=mlm", "~logger.name", f"pretraining.epochs={epochs}"] for epochs in (1, 2)],
        [["stage=mlm", f"hydra.run.dir={place}"] for place in ("a", "b")],
        [["stage=mlm", f"seed={seed}", "++seed=7"] for seed in (1, 2)],
        [["stage=mlm", f"trainer.devices={count}", "trainer={accelerator: cpu, devices: 1}"] for count in (1, 2)],
        [["stage=sentiment", f"repr.layer={layer}", "data.name=mr", "repr=mean", "data=files"] for layer in (1, 2)],
        [["stage=mlm", f"data.max_length={length}", "experiment=first_real_run"] for length in (32, 64)],
        [["stage=mlm", "+objective@objective.parts.bow=bow", f"objective.parts.bow.weight={one}"] for one in (1, 2)],
    ],
)
def test_configs_of_a_sweep_are_those_that_hydra_composes(jobs):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        configs = app.Compositions()
        for overrides in [*jobs, jobs[0]]:
            expected = hydra.compose("train", overrides=overrides)
            found = configs.of(overrides)
            assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
            assert OmegaConf.to_container(found, resolve=True) == OmegaConf.to_container(expected, resolve=True)


def test_a_sweep_composes_once_what_differs_in_values_alone(monkeypatch):
    made = []
    compose = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda name, overrides: made.append(overrides) or compose(name, overrides))
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        configs = app.Compositions()
        asked = ["stage=sentiment", "repr=cls,mean", "labels_per_class=2,4", "seed=1,2,3", "+trainer.plugins=[a]"]
        asked += ["data=files", "data.name=own", "repr.layer=1,2"]
        for overrides in app.jobs_of(asked):
            configs.of(overrides)
        assert len(made) == 2
        configs.of(["stage=mlm", "runs_dir=a"])
        for overrides in (["stage=mlm", "runs_dir=null"], ["stage=mlm", "stage2=1"]):
            with pytest.raises(HydraException, match=r"Error merging|stage2"):
                configs.of(overrides)


def test_settings_may_stand_on_both_sides_of_a_flag():
    assert app.prepared(["repr=cls", "-m", "~logger.entity", "seed=1,2"]) == [
        "-m",
        "repr=cls",
        "~logger.entity",
        "seed=1,2",
    ]
    assert app.prepared(["stage=mlm", "--cfg", "job", "seed=1"]) == ["--cfg", "job", "stage=mlm", "seed=1"]


def records(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*/record.json"))]


def test_the_main_job_end_to_end(program, tmp_path, capsys):
    """Both stages as a person runs them: missing encoder, stage 1, a sweep, the same sweep again."""
    assert program("stage=sentiment", *SMALL_STAGE2) == 2
    message = capsys.readouterr().err
    command = shlex.split(re.search(r"make it: +python train\.py (.*)", message).group(1))
    assert program(*command) == 0
    (stage1,) = records(tmp_path / "runs/mlm")
    assert stage1["status"] == "finished"
    assert stage1["provenance"]["pooler_status"] == "trained"
    assert stage1["metrics"]["dev/perplexity"] > 1
    export = next((tmp_path / "runs/mlm").glob("*/export"))
    for kind in (BertModel, BertForMaskedLM):
        assert not kind.from_pretrained(export, output_loading_info=True)[1]["missing_keys"]

    assert program("stage=sentiment", "repr=pooler", *SMALL_STAGE2, "-m") == 0
    found = records(tmp_path / "runs/sentiment")
    assert [run["seed"] for run in found] == [1, 2, 3]
    assert len({run["condition"] for run in found}) == 1
    assert {run["status"] for run in found} == {"finished"}
    assert {run["pooler_status"] for run in found} == {"trained"}
    assert all(run["representation"]["formula"].startswith("tanh(W h[0] + b)") for run in found)
    assert len({run["wandb"]["id"] for run in found}) == 3
    predictions = pandas.read_parquet(next((tmp_path / "runs/sentiment").glob("*seed1-*/predictions.parquet")))
    assert predictions["split"].value_counts().to_dict() == {"test": 40, "dev": 32}
    test = predictions[predictions["split"] == "test"]
    accuracy = (pandas.Series([row.argmax() for row in test["logits"]]) == test["label"].to_numpy()).mean()
    assert accuracy == pytest.approx(found[0]["metrics"]["test/accuracy"], abs=1e-6)

    for run in (stage1, *found):
        in_wandb = read_wandb(run["wandb"]["folder"])
        assert {name: in_wandb["summary"][name] for name in run["metrics"]} == run["metrics"]
        assert in_wandb["config"]["key"] == run["key"]

    before = [run["started"] for run in found]
    assert program("stage=sentiment", "repr=pooler", *SMALL_STAGE2, "-m") == 0
    assert [run["started"] for run in records(tmp_path / "runs/sentiment")] == before
    assert capsys.readouterr().out.count("is finished") == 3


@pytest.mark.slow
def test_a_layer_and_parameters_of_a_representation_are_in_the_record(program, tmp_path):
    small = ["stage=sentiment", "encoder=base", *SMALL_STAGE2, "logger=csv"]
    assert program(*small, "repr=layer_mix,pooler", "repr.layer=1", "-m", "seed=1") == 0
    found = {run["repr"]: run for run in records(tmp_path / "runs/sentiment")}
    mixed, pooled = found["layer_mix@layer1"], found["pooler@layer1"]
    assert mixed["representation"]["formula"].endswith("learned in stage 2; layer 1 of 2 stands for the last")
    assert [mixed["representation"][key] for key in ("name", "layer", "parameters")] == ["layer_mix", 1, 3]
    assert pooled["representation"]["parameters"] == 32 * 33
    assert pooled["parameters"] - mixed["parameters"] == 32 * 33 - 3
    assert {(run["status"], run["pooler_status"]) for run in found.values()} == {("finished", "random")}
    report = write_report(tmp_path / "runs")
    assert {row[0] for row in report.sections[0].table.rows} == {"layer_mix@layer1", "pooler@layer1 (random)"}


def test_a_sweep_of_many_jobs_says_that_it_looks_at_them(program, monkeypatch, capfd):
    for many, told in ((3, False), (2, True)):
        monkeypatch.setattr("poolwise.app.MANY_JOBS", many)
        assert program("stage=sentiment", "seed=1,2", *SMALL_STAGE2, "-m") == 2  # there is no stage 1
        assert ("looking at 2 jobs before the first begins" in capfd.readouterr().out) == told


def test_each_job_of_a_sweep_resolves_what_the_command_line_refers_to(program, tmp_path, monkeypatch):
    looks = []
    earlier = loop.earlier_time_in_words
    monkeypatch.setattr(loop, "earlier_time_in_words", lambda *given: looks.append(given) or earlier(*given))
    frozen = ["encoder=base", "protocol=frozen", "labels_per_class=8", "repr=mean", "logger=csv"]
    assert program("stage=sentiment", *frozen, *SMALL_STAGE2, "seed=2,3", "label_seed=${seed}", "-m") == 0
    assert sorted(run["label_seed"] for run in records(tmp_path / "runs/sentiment")) == [2, 3]
    assert len(looks) == 2  # at all earlier runs: for the sweep and for its first job


def test_what_makes_a_missing_encoder_has_the_seed_that_the_job_refers_to(program, capsys):
    given = ["stage=sentiment", "stage1.seed=${seed}", "seed=2,3", *SMALL_STAGE2]
    assert program(*given, "-m") == 2
    assert re.findall(r"make it: .* seed=(\S+)", capsys.readouterr().err) == ["2", "3"]


@pytest.mark.slow
def test_a_sweep_with_a_missing_encoder_starts_no_job(program, tmp_path, capsys):
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == 0
    assert program("stage=sentiment", "stage1.seed=1,2,3", "repr=cls,mean", *SMALL_STAGE2, "-m") == 2
    printed = capsys.readouterr()
    assert printed.err.count("The stage-1 encoder is missing") == 2
    assert [words for words in ("seed=1", "seed=2", "seed=3") if f"stage=mlm {words}" in printed.err] == []
    assert re.findall(r"make it: .* seed=(\d)", printed.err) == ["2", "3"]
    assert "training" not in printed.out.split("finished")[-1]
    assert not (tmp_path / "runs/sentiment").exists()


def test_the_best_epoch_is_kept_and_the_checkpoints_are_not(program, tmp_path):
    assert program("stage=sentiment", "encoder=base", *SMALL_STAGE2, "protocol.epochs=3") == 0
    (folder,) = (tmp_path / "runs/sentiment").glob("demo-*")
    assert list(folder.glob("*.ckpt")) == []
    (run,) = records(tmp_path / "runs/sentiment")
    assert run["encoder"] == "base"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    by_epoch = [line["dev/macro_f1"] for line in lines if "dev/macro_f1" in line]
    assert len(by_epoch) == 3
    assert run["metrics"]["dev/macro_f1"] == max(by_epoch)
    rows = pandas.read_parquet(folder / "predictions.parquet").query("split == 'test'").sort_values("example")
    texts = load_corpus(settings(*SMALL_STAGE2, "stage=sentiment").data).labelled["test"]["text"]
    np.testing.assert_allclose(load(folder).logits(texts), np.stack(rows["logits"].to_list()), atol=1e-4)


@pytest.mark.parametrize("stage", [["stage=mlm", *SMALL_STAGE1], ["stage=sentiment", "encoder=base", *SMALL_STAGE2]])
def test_mixed_precision(program, tmp_path, stage):
    assert program(*stage, "trainer.precision=bf16-mixed", "logger=csv") == 0
    (run,) = records(tmp_path / "runs" / stage[0].removeprefix("stage="))
    assert run["status"] == "finished"
    assert run["material"]["platform"]["precision"] == "bf16-mixed"


def test_the_same_command_gives_the_same_numbers(program, tmp_path):
    for part in ("a", "b"):
        assert program("stage=mlm", *SMALL_STAGE1, f"runs_dir={tmp_path / part}", "logger=csv") == 0
    first, second = (records(tmp_path / part / "mlm")[0] for part in ("a", "b"))
    assert first["metrics"].pop("train/tokens_per_second") != second["metrics"].pop("train/tokens_per_second")
    assert first["metrics"] == second["metrics"]
    assert first["key"] == second["key"]


def test_a_run_that_fails_is_recorded_and_the_sweep_goes_on(program, tmp_path, monkeypatch):
    from poolwise.stages.sentiment import Sentiment

    step = Sentiment.training_step
    failures = iter([True])

    def failing_once(self, batch, batch_idx):
        if next(failures, False):
            raise RuntimeError("out of luck")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Sentiment, "training_step", failing_once)
    assert program("stage=sentiment", "encoder=base", *SMALL_STAGE2, "seed=1,2", "-m") == 1
    assert [run["status"] for run in records(tmp_path / "runs/sentiment")] == ["failed", "finished"]
    assert records(tmp_path / "runs/sentiment")[0]["error"] == "RuntimeError: out of luck"


def test_own_files_with_three_classes(program, tmp_path):
    rows = [(f"the {word} number {n} is {word}", word) for n in range(12) for word in ("good", "dull", "fine")]
    for split in ("train", "dev", "test"):
        lines = [f"{text} in {split},{label}" for text, label in rows]
        (tmp_path / f"{split}.csv").write_text("review,stars\n" + "\n".join(lines) + "\n")
    own = [f"data.{split}={tmp_path / split}.csv" for split in ("train", "dev", "test")]
    own += ["data=files", "data.text_column=review", "data.label_column=stars", "data.max_length=16"]
    model = [setting for setting in SMALL_RUN if setting.startswith(("model", "trainer"))]
    assert program("stage=mlm", *own, *model, "pretraining.epochs=1", "logger=csv") == 0
    assert program("stage=sentiment", *own, *model, "stage1.epochs=1", "protocol.epochs=1", "logger=csv") == 0
    (run,) = records(tmp_path / "runs/sentiment")
    assert run["label_names"] == ["dull", "fine", "good"]
    assert run["class_counts"] == {split: {"dull": 12, "fine": 12, "good": 12} for split in ("train", "dev", "test")}
    (stage1,) = records(tmp_path / "runs/mlm")
    assert run["stage1_key"] == stage1["key"]
    assert run["data"] == "files"


def test_a_folder_as_encoder(program, tmp_path):
    assert program("stage=mlm", *SMALL_STAGE1, "objective=none", "logger=csv") == 0
    export = next((tmp_path / "runs/mlm").glob("*/export"))
    assert program("stage=sentiment", "repr=pooler", f"encoder={export}", *SMALL_STAGE2, "logger=csv") == 0
    (run,) = records(tmp_path / "runs/sentiment")
    assert run["pooler_status"] == "random"
    assert run["encoder"] == str(export)
    assert run["model"] == "tiny"
    assert run["name"].startswith("demo-tiny-none-pooler-finetune-seed1-stage1seed1")
    assert (run["objective"], run["stage1_seed"]) == ("none", 1)
    assert run["encoder_condition"] == json.loads((export / "provenance.json").read_text())["condition"]
    assert run["stage1_provenance"]["pooler_status"] == "random"


@pytest.mark.slow
def test_pooler_only_training_of_a_checkpoint_end_to_end(program, tmp_path, capsys):
    assert program("stage=mlm", *SMALL_STAGE1, "objective=none", "logger=csv") == 0
    export = next((tmp_path / "runs/mlm").glob("*/export"))
    given = [f"model={export}", *(s for s in SMALL_STAGE1 if not s.startswith("model.")), "logger=csv"]
    assert program("stage=mlm", *given, "trainable=pooler", "trainer.precision=bf16-true") == 2
    assert "trainer.precision=bf16-true converts them; allowed: 32-true" in capsys.readouterr().err
    second = [s.replace("pretraining.", "stage1.") for s in given] + ["protocol.epochs=1", "trainable=pooler"]
    assert program("stage=sentiment", *second, "repr=pooler") == 2
    command = shlex.split(re.search(r"make it: +python train\.py (.*)", capsys.readouterr().err).group(1))
    assert program(*command, "logger=csv") == 0
    cured = next((tmp_path / "runs/mlm").glob("*pooler_only*/export"))
    before, after = (load_file(folder / "model.safetensors") for folder in (export, cured))
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
    ]
    assert "after training its pooler alone on" in (cured / "README.md").read_text()
    assert program("stage=sentiment", *second, "repr=pooler") == 0
    (run,) = records(tmp_path / "runs/sentiment")
    assert run["objective"] == "bow+halves-pooler_only"
    assert run["pooler_status"] in ("trained", "collapsed")
    assert len(write_report(tmp_path / "runs").sections) == 1


@pytest.mark.parametrize(
    ("objective", "warning", "words"),
    [
        (
            "objective.weight=0",
            "the pooler got no gradient: it is as it was before training",
            "WARNING: the pooler got",
        ),
        ("objective=none", None, "pooler: random, as objective=none asks for"),
    ],
)
def test_a_pooler_without_a_gradient_is_warned_of_where_it_was_not_asked_for(
    program, tmp_path, capsys, objective, warning, words
):
    assert program("stage=mlm", *SMALL_STAGE1, objective, "logger=csv") == 0
    (run,) = records(tmp_path / "runs/mlm")
    assert run["provenance"]["warning"] == warning
    assert run["provenance"]["pooler_status"] == "random"
    printed = capsys.readouterr().out
    assert words in printed
    assert ("WARNING" in printed) == (warning is not None)
    lines = [
        json.loads(line) for line in next((tmp_path / "runs/mlm").glob("*/metrics.jsonl")).read_text().splitlines()
    ]
    assert lines[-1]["pooler/effective_rank"] == run["provenance"]["pooler_geometry"]["effective_rank"]
    assert lines[-1]["pooler/effective_rank"] == run["metrics"]["pooler/effective_rank"]


@pytest.mark.parametrize("arguments", [["--help"], ["stage=mlm", "-h"]])
def test_help_is_the_projects_own(program, capsys, arguments):
    program(*arguments)
    printed = capsys.readouterr().out
    for words in (
        "objective: bow, combined, decoder, halves, none, nsp, rating, simcse, sop, views",
        "repr: attention, cls, cls_last4, cls_linear, cls_mean, cls_scaled, layer_mix, max, mean, mean_first_last, ",
        "python train.py stage=mlm",
    ):
        assert words in printed


@pytest.fixture(autouse=True)
def hydra_is_left_clean():
    yield
    GlobalHydra.instance().clear()


def test_config_is_resolved_in_the_record():
    config = OmegaConf.to_container(compose("stage=mlm"), resolve=True)
    assert config["pretraining"]["optimisation"]["learning_rate"] == config["model"]["mlm_learning_rate"]
    assert app.SCHEMAS.keys() == {"mlm", "sentiment"}
