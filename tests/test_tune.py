"""The search for settings, from the command line to the study."""

import json
import shlex
import shutil
import sys

import pytest
from optuna.trial import FixedTrial
from transformers import BertModel

from helpers import SMALL_STAGE1, SMALL_STAGE2
from poolwise import app, tune
from poolwise.runs import read_record, write_record
from poolwise.stages.loop import run
from poolwise.tune import Range

SMALL = [setting for setting in SMALL_STAGE2 if not setting.startswith("protocol.")]
PROBE = ["encoder=base", *SMALL, "protocol=probe", "repr=mean", "logger=csv"]


@pytest.fixture
def tuned(program, tmp_path, monkeypatch, capsys):
    """Runs `poolwise.tune`; returns the exit code and what was printed."""

    def run(*arguments: str) -> tuple[int, str]:
        places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
        monkeypatch.setattr(sys, "argv", ["tune", *places, *arguments])
        code = 0
        try:
            tune.main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return code, "".join(capsys.readouterr())

    return run


def trials_in(printed: str) -> list[str]:
    return [line.partition(": ")[2] for line in printed.splitlines() if line.startswith("trial ")]


@pytest.mark.slow
def test_a_study_goes_on_and_reads_dev_alone(tuned, tmp_path):
    code, first = tuned(*PROBE, "repr.layer=0..2", "--trials", "2")
    assert code == 0
    code, then = tuned(*PROBE, "repr.layer=0..2", "--trials", "4")
    assert code == 0
    assert "test/" not in first + then
    tried = trials_in(first) + trials_in(then)
    assert len(tried) == 4
    assert set(tried) <= {f"repr.layer={layer}" for layer in range(3)}
    files = list((tmp_path / "runs/sentiment").glob("*/record.json"))
    records = [json.loads(file.read_text()) for file in files]
    assert len(records) == len(set(tried))  # what was tried twice was done once
    best = max(records, key=lambda record: record["metrics"]["dev/macro_f1"])
    layer = best["config"]["repr"]["layer"]
    last = [line.strip() for line in then.splitlines()]
    assert f"best of 4 trials: dev/macro_f1 {best['metrics']['dev/macro_f1']:.4f}, repr.layer={layer}" in last
    (study,) = (tmp_path / "runs/tune").iterdir()
    assert "test/" not in study.read_text()
    assert {record["study"] for record in records} == {study.stem}
    # The same study at once, from records that hold no test figure.
    shutil.rmtree(tmp_path / "runs/tune")
    for file, record in zip(files, records, strict=True):
        record["metrics"] = {name: value for name, value in record["metrics"].items() if name.startswith("dev/")}
        write_record(file.parent, record)
    code, anew = tuned(*PROBE, "repr.layer=0..2", "--trials", "4")
    assert (code, trials_in(anew)) == (0, tried)
    (command,) = (line.split("next", 1)[1] for line in anew.splitlines() if line.startswith("  next   python train.py"))
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    assert {f"repr.layer={layer}", "seed=2,3,4", "repr=mean"} <= set(words)
    assert len(app.jobs_of([word for word in app.prepared(words[2:]) if word != "-m"])) == 3
    # A trial that is asked for by itself counts as a run from then on, and stays one if a study comes by again.
    (job,) = tune._jobs([*words[2:-2], "seed=1"])
    run(job)
    assert "study" not in read_record(job.folder)
    tuned(*PROBE, "repr.layer=0..2", "--trials", "4")
    assert "study" not in read_record(job.folder)
    assert sum("study" in read_record(file.parent) for file in files) == len(files) - 1


@pytest.mark.slow
def test_a_trial_may_be_a_mean_over_seeds_and_one_that_fails_is_left_out(tuned, monkeypatch):
    scores = iter([0.5, 0.7, RuntimeError("out of memory"), 0.9, 0.8])

    def score(jobs):
        assert [job.settings.seed for job in jobs] == [5, 6]
        found = next(scores)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(tune, "_score", score)
    search = ["encoder=base", *SMALL_STAGE2, "seed=5,6", "protocol.optimisation.learning_rate=1e-5..1e-2"]
    code, printed = tuned(*search, "--trials", "5")
    assert code == 0
    assert "best of 4 trials: dev/macro_f1 0.9000" in printed
    assert "seed=7,8,9 -m" in printed


def next_words(*settings: str) -> list[str]:
    return shlex.split(tune.confirmation(settings)["next"])


@pytest.mark.slow
def test_what_confirms_a_search_is_random_in_that_run(program, tmp_path, config, tokenizer):
    encoder = tmp_path / "encoder"
    BertModel(config).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    app.register_schemas()
    small = [setting for setting in SMALL if not setting.startswith("model.")]
    probe = [*small, "logger=csv", "protocol=probe", "repr=mean", f"encoder={encoder}", f"cache_dir={tmp_path}"]
    assert "seed=2,3,4" in next_words(*probe, "labels_per_class=4")  # which draws the labels
    drawn = next_words(*probe, "labels_per_class=4", "label_seed=5,6", "seed=1")
    assert {"seed=1", "label_seed=7,8,9", "-m"} <= set(drawn)
    assert "label_seed=5,6" not in drawn
    same = tune.confirmation(probe)
    assert "nothing in this run is random" in same["note"]
    assert "seed=" not in same["next"]
    assert "head_seed=6,7,8" in next_words(
        *(word for word in probe if word != "protocol=probe"), "head_seed=5", "order_seed=1", "pooler_seed=1"
    )


@pytest.mark.slow
def test_a_probe_after_stage_1_is_confirmed_on_fresh_stage_1_runs(program, tmp_path):
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv", "objective=none") == 0
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    probe = [setting for setting in SMALL_STAGE2 if not setting.startswith("protocol.")]
    told = tune.confirmation([*places, *probe, "objective@stage1.objective=none", "protocol=probe", "repr=mean"])
    first, then = shlex.split(told["first"]), shlex.split(told["next"])
    assert first[:3] == ["python", "train.py", "stage=mlm"]
    assert {"seed=2,3,4", "objective=none", "pretraining.epochs=1", "-m"} <= set(first)
    assert {"stage1.seed=2,3,4", "objective@stage1.objective=none", "repr=mean", "-m"} <= set(then)


def test_a_study_of_several_representations_is_told_as_a_command_for_each(tuned):
    code, printed = tuned("repr=cls,mean", "repr.layer=0..2", "--trials", "5")
    assert code == 2
    commands = [shlex.split(line) for line in printed.splitlines()[1:]]
    assert printed.startswith("poolwise: repr=cls,mean: a study is of one; run one study per representation:\n")
    assert [[*words[:3], *words[5:]] for words in commands] == [
        ["python", "-m", "poolwise.tune", f"repr={name}", "repr.layer=0..2", "--trials", "5"]
        for name in ("cls", "mean")
    ]


def test_ranges_are_whole_numbers_or_fractions_of_three_digits():
    whole = Range.read("repr.layer", "1", "4")
    assert whole.suggested(FixedTrial({"repr.layer": 3})) == "repr.layer=3"
    rate = Range.read("rate", "1e-5", ".1")
    trial = FixedTrial({"rate": 0.000123456})
    assert rate.suggested(trial) == "rate=0.000123"
    assert trial.distributions["rate"].log
    assert Range.read("dropout", "0.1", "0.12345").suggested(FixedTrial({"dropout": 0.12345})) == "dropout=0.123"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["repr.layer=2..1"], "repr.layer=2..1: must be two numbers, the lower one first"),
        (["repr.layer=1..b"], "repr.layer=1..b: must be two numbers"),
        (["repr.layer=0..9"], "repr.layer=9: "),
        (["seed=1..9"], "seed=1..9: a seed is not tuned"),
        (["repr.lair=0..2"], "repr.lair=0: no such setting"),
        ([], "one range or more"),
        (["stage=mlm", "repr.layer=0..2"], "needs stage=sentiment"),
        (["repr.layer=0..2", "--trials=0"], "--trials above 0"),
        (["repr=cls,mean", "repr.layer=0..2"], "run one study per representation"),
        (["repr.layer=0..2", "data.test=40,50"], "several conditions"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_no_study(tuned, tmp_path, words, told):
    code, printed = tuned(*PROBE, *words)
    assert code == 2
    assert told in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "runs/tune").exists()


def test_optuna_that_is_missing_is_told(tuned, monkeypatch):
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    assert tuned(*PROBE, "repr.layer=0..2") == (
        2,
        "poolwise: poolwise.tune needs Optuna: pip install 'poolwise[tune]'\n",
    )
