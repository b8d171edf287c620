import json
import shlex
from pathlib import Path

import pytest

from helpers import REPOSITORY
from poolwise.command_line import (
    expanded,
    override_in,
    pooler_command,
    problem_with_stage,
    program_of_torchrun,
    stage1_command,
    stage2_command,
    stage_of,
    with_paths_quoted,
)
from poolwise.settings import UserError


@pytest.mark.parametrize(
    ("typed", "words", "of_torchrun"),
    [
        ("train.py", "python train.py", ["train.py"]),
        ("poolwise/report.py", "python train.py", ["train.py"]),
        ("bin/poolwise", "poolwise", ["-m", "poolwise"]),
    ],
)
def test_commands_start_as_the_person_did(typed, words, of_torchrun, monkeypatch):
    monkeypatch.setattr("sys.argv", [typed])
    assert stage1_command(["data=demo"]) == f"{words} stage=mlm data=demo"
    assert program_of_torchrun() == of_torchrun


def test_overrides_are_told_from_flags():
    override = override_in("++data.text=a=b c")
    assert (override.prefix, override.key, override.value, override.root) == ("++", "data.text", "a=b c", "data")
    assert str(override) == "++data.text=a=b c"
    assert override_in("objective@stage1.objective=bow").root == "objective"
    for deletion in ("~data.text", "~data.text=a.txt"):
        override = override_in(deletion)
        assert (override.prefix, override.key, str(override)) == ("~", "data.text", deletion)
    assert [override_in(word) for word in ("-m", "--cfg", "job")] == [None] * 3
    assert [override_in(word).is_choice for word in ("model=tiny", "objective@stage1.objective=bow")] == [True, True]
    assert [override_in(word).is_choice for word in ("seed=1", "model.layers=1", "modell=tiny")] == [False] * 3


def test_a_model_can_be_given_by_its_place(tmp_path):
    assert expanded(["model=minilm", "seed=1"]) == ["model=minilm", "seed=1"]
    assert expanded(["model=my/bert"]) == ["model=pretrained", "model.path=my/bert", "model.name=bert"]
    assert expanded(["encoder=base"]) == ["encoder=base"]
    assert expanded(["encoder=conf", "model=minilm"]) == ["encoder=conf", "model=minilm"]
    folder = str(REPOSITORY / "conf")
    assert expanded([f"encoder={folder}"])[1:] == ["model=pretrained", f"model.path={folder}", "model.name=conf"]
    assert expanded(["model=tiny,minilm"]) == ["model=tiny,minilm"]
    (tmp_path / "provenance.json").write_text(json.dumps({"model": "minilm"}))
    assert expanded([f"encoder={tmp_path}"]) == [f"encoder={tmp_path}", "model=minilm"]


def test_trainable_and_budget_are_short_for_the_settings_of_stage_1():
    assert expanded(["stage=mlm", "budget=10min"]) == ["stage=mlm", "pretraining.budget=10min"]
    assert expanded(["budget=90s"]) == ["stage1.budget=90s"]
    assert expanded(["stage=mlm", "trainable=pooler"]) == ["stage=mlm", "pretraining.trainable=pooler"]
    assert expanded(["trainable=all,pooler", "-m"]) == ["stage1.trainable=all,pooler", "-m"]
    assert stage1_command(["stage1.trainable=pooler"]) == "python train.py stage=mlm pretraining.trainable=pooler"


def test_the_stage_is_read_before_hydra_reads_it():
    assert stage_of(["repr=cls"]) == "sentiment"
    assert stage_of(["stage=mlm", "-m"]) == "mlm"
    for stage in ("mlm,sentiment", "mlmm"):
        with pytest.raises(UserError, match=f"stage={stage}"):
            stage_of([f"stage={stage}"])


@pytest.mark.parametrize(
    ("stage", "typed", "right"),
    [
        ("mlm", "repr=cls", "a setting of stage=sentiment"),
        ("mlm", "protocol.epochs=1", "a setting of stage=sentiment"),
        ("mlm", "encoder=base", "a setting of stage=sentiment"),
        ("mlm", "stage1.epochs=1", "write pretraining.epochs=1"),
        ("mlm", "stage1.seed=1", "write seed=1"),
        ("mlm", "stage1.objective.weight=1", "write objective.weight=1"),
        ("mlm", "objective@stage1.objective=none", "write objective=none"),
        ("sentiment", "objective=none", "write objective@stage1.objective=none"),
        ("sentiment", "objective.weight=1", "write stage1.objective.weight=1"),
        ("sentiment", "pretraining.epochs=1", "write stage1.epochs=1"),
        ("mlm", "objective=none", None),
        ("sentiment", "stage1.objective.weight=1", None),
        ("sentiment", "objective@stage1.objective=none", None),
        ("sentiment", "repr=cls", None),
    ],
)
def test_settings_of_the_other_stage_are_told_with_the_right_key(stage, typed, right):
    problem = problem_with_stage(override_in(typed), stage)
    if right is None:
        assert problem is None
    else:
        assert problem.startswith(typed)
        assert right in problem


def test_the_command_that_makes_the_stage_1_encoder():
    overrides = [
        "stage=sentiment",
        "repr=pooler",
        "seed=3",
        "stage1.seed=2",
        "stage1.epochs=5",
        "stage1.objective.weight=2",
        "objective@stage1.objective=bow",
        "+objective@stage1.objective.parts.decoder=decoder",
        "data=files",
        "data.text=a.txt",
        "protocol.epochs=1",
        "+trainer.max_steps=5",
        "trainer.precision=bf16-mixed",
        "~logger.entity",
        "experiment=first_real_run",
        "data.dev=my data.csv",
    ]
    assert stage1_command(overrides) == (
        "python train.py stage=mlm seed=2 pretraining.epochs=5 objective.weight=2 objective=bow "
        "+objective@objective.parts.decoder=decoder "
        "data=files data.text=a.txt trainer.precision=bf16-mixed "
        "experiment=first_real_run 'data.dev=my data.csv'"
    )


def test_the_command_that_follows_stage_1_asks_for_the_run_it_made():
    made = ["seed=2", "pretraining.epochs=5", "objective.weight=2", "objective=bow", "data=files", "data.text=a.txt"]
    following = stage2_command(["stage=mlm", *made, "logger=csv"])
    assert following == (
        "python train.py stage=sentiment repr=cls,pooler,mean,cls_linear stage1.seed=2 stage1.epochs=5 "
        "stage1.objective.weight=2 objective@stage1.objective=bow data=files data.text=a.txt -m"
    )
    assert stage1_command(following.split()).split()[2:] == ["stage=mlm", *made]


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("data.train=a.csv", "data.train=a.csv"),
        ("data.train=my data (1).csv", "data.train='my data (1).csv'"),
        ("data.train=it's.csv", "data.train='it\\'s.csv'"),
        ("data.train='quoted already.csv'", "data.train='quoted already.csv'"),
        ("data.train=a.csv,b.csv", "data.train=a.csv,b.csv"),
        ("data.name=my data", "data.name=my data"),
        ("data.text_column=6", "data.text_column='6'"),
        ("data.text=96", "data.text=96"),  # so many, of the demo
        ("data.stage1_text_column=what they said (all)", "data.stage1_text_column='what they said (all)'"),
        ("runs_dir=~/runs", f"runs_dir={Path.home()}/runs"),
    ],
)
def test_paths_are_quoted_as_the_grammar_wants_them(typed, taken):
    assert with_paths_quoted(override_in(typed)) == taken


def test_a_file_with_a_comma_in_its_name_is_one_file(tmp_path):
    (tmp_path / "a,b.csv").write_text("")
    assert with_paths_quoted(override_in(f"data.train={tmp_path}/a,b.csv")) == f"data.train='{tmp_path}/a,b.csv'"


def test_many_choices_are_not_asked_for_as_a_file():
    """Held away: the system's error on a name of that length."""
    for key in ("seed", "encoder"):
        many = f"{key}={','.join(map(str, range(2000)))}"
        assert with_paths_quoted(override_in(many)) == many


def test_a_name_too_long_for_the_system_is_no_place():
    many = f"encoder={','.join(f'runs/mlm/run-{number}/export' for number in range(200))}"
    assert expanded([many, "-m"]) == [many, "-m"]
    assert expanded([f"model={'m' * 300}"]) == [f"model={'m' * 300}"]


def test_commands_are_written_as_a_person_would():
    """Short again, of each key the last value, quoted once."""
    made = expanded(["stage=mlm", "model=my bert/one", "pretraining.epochs=1", "pretraining.epochs=2"])
    assert stage2_command([*made, "data.text='my texts.txt'", "data.text_column='6'"]) == (
        "python train.py stage=sentiment repr=cls,pooler,mean,cls_linear 'model=my bert/one' stage1.epochs=2 "
        "'data.text=my texts.txt' data.text_column=6 -m"
    )
    with_comma = "data.text_column='Review, full'"
    assert stage1_command([with_comma]) == shlex.join(["python", "train.py", "stage=mlm", with_comma])


def test_a_broken_provenance_does_not_stop_the_reading_of_a_command_line(tmp_path):
    for content in ("{bad", "[]", "{}"):
        (tmp_path / "provenance.json").write_text(content)
        assert expanded([f"encoder={tmp_path}"])[1] == "model=pretrained"


def test_the_command_that_trains_a_pooler_alone_has_the_data_of_the_run():
    given = "stage=sentiment model=minilm model.add_words=3 encoder=base repr=pooler seed=3 data=files -m".split()
    own = ["data.train='my texts.csv'", "stage1.seed=2", "trainer.precision=32-true", "runs_dir=r"]
    assert pooler_command("my models/bert", [*given, *own]) == (
        "python train.py stage=mlm 'model=my models/bert' trainable=pooler data=files 'data.train=my texts.csv' "
        "trainer.precision=32-true runs_dir=r"
    )
    # Of stage 1, where `model=FOLDER` is written long.
    assert pooler_command("b/c", ["model=pretrained", "model.path=a/b", "model.name=b"]) == (
        "python train.py stage=mlm model=b/c trainable=pooler"
    )
