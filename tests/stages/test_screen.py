import json
import os
import re
import signal as signals

import lightning
import pytest

from helpers import SMALL_STAGE1, SMALL_STAGE2, quiet_trainer
from poolwise.machine import keeps_memory
from poolwise.settings import Optimisation
from poolwise.stages import screen
from poolwise.stages.stage import Stage

LINE = re.compile(r"epoch 1/2, step [2-6]/6, about 5 s left, loss \d+\.\d{3}, [\d,]+ tokens/s")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def at_once(monkeypatch):
    """Everything is shown at each step."""
    for name in ("REDRAW_SECONDS", "FIRST_ESTIMATE_SECONDS", "LOG_SECONDS", "LOG_LINES"):
        monkeypatch.setattr(screen, name, 1e9 if name == "LOG_LINES" else 0.0)


def test_a_log_shows_start_progress_and_end(program, capfd, at_once, tmp_path):
    assert program("stage=mlm", *SMALL_STAGE1, "pretraining.epochs=2") == 0
    printed = capfd.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "demo-tiny-bow-seed1"
    assert lines[1] == "  train  tiny from random weights: masked language modelling, pooler objective bow"
    assert re.fullmatch(r"  on     demo: 96 texts, [\d,]+ tokens; dev 32", lines[2])
    assert lines[3] == "  for    2 epochs, 6 steps of 32 texts; 32-true on cpu, 1 thread"
    assert (
        lines[5]
        == "  speed  OMP_WAIT_POLICY=PASSIVE, fused optimiser, quick dropout" + ", memory is kept" * keeps_memory()
    )
    (record,) = (json.loads(file.read_text()) for file in tmp_path.glob("runs/mlm/*/record.json"))
    assert record["speed"] == {
        **{"precision": "32-true", "threads": 1, "waiting_threads": {"OMP_WAIT_POLICY": "PASSIVE"}},
        **{
            "keeps_memory": keeps_memory(),
            "leaves_out_padding": False,
            "fuses_optimiser": True,
            "quick_dropout": True,
            "compiles_layers": False,
        },
    }
    assert len(LINE.findall(printed)) >= 2
    assert "step 1/6" not in printed  # the first step, slow as it is, does not say how long the others take
    assert "time    about 5 s by the speed of the first steps" in printed
    assert re.search(r"^finished in \d s: dev/perplexity [\d.]+, dev/masked_accuracy", printed, flags=re.MULTILINE)
    for fact in ("record  ", "W&B     offline; to upload: wandb sync ", "export  "):
        assert f"\n  {fact}" in printed
    assert "next    python train.py stage=sentiment repr=cls,pooler,mean,cls_linear" in printed
    assert " stage1.epochs=2 " in printed
    assert "\x1b" not in printed


@pytest.mark.slow
def test_limits_of_the_trainer_are_in_the_count_and_the_next_command_finds_the_run(program, capfd, at_once):
    assert program("stage=mlm", *SMALL_STAGE1, "+trainer.limit_train_batches=2", "logger=csv") == 0
    printed = capfd.readouterr().out
    assert "for    1 epoch, 2 steps of 32 texts" in printed
    assert "log_every_n_steps" not in printed
    command = re.search(r"next +python train\.py (.*)", printed).group(1)
    assert "/export -m" in command
    small = ["repr=cls", *SMALL_STAGE2[-1:], *(s for s in SMALL_STAGE2 if s.startswith("data."))]
    assert program(*command.split(), *small, "seed=1", "logger=csv") == 0


@pytest.mark.slow
def test_a_sweep_says_what_it_can_show_and_how_it_ended(program, capfd, at_once):
    assert program("stage=sentiment", "encoder=base", "repr=cls,mean", *SMALL_STAGE2, "seed=1,2", "-m") == 0
    printed = capfd.readouterr().out
    assert printed.startswith("sweep of 4 jobs\n")
    assert re.search(r"  seed +1, 2\n  repr +cls, mean\n", printed)
    assert "differences of about 16.2 points in accuracy, by 40 test texts and 2 seeds" in printed
    assert [f"job {number} of 4: demo-tiny" in printed for number in (1, 2, 3, 4)] == [True] * 4
    assert re.search(r"about \d+ s with the 3 after it", printed)
    assert "HYDRA" not in printed
    end = printed[printed.index("sweep: 4 of 4 jobs finished") :]
    assert re.search(r"  repr=cls +dev/macro_f1 \S+ ± \S+, test/accuracy \S+ ± \S+", end)
    assert re.search(r"  next +python -m poolwise\.report --runs ", end)


def test_a_sweep_with_a_failed_job_says_which_and_why(program, capfd, monkeypatch):
    from poolwise.stages.sentiment import Sentiment

    def failing(self, batch, batch_idx):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Sentiment, "training_step", failing)
    assert program("stage=sentiment", "encoder=base", *SMALL_STAGE2, "seed=1,2", "-m") == 1
    printed = capfd.readouterr().out
    assert "sweep: 0 of 2 jobs finished" in printed
    assert printed.count("failed: RuntimeError: out of luck") == 4  # each at once, and again at the end


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "bar"), [("120", True), ("40", False)])
def test_a_terminal_of_any_width_and_without_colour(program, capfd, at_once, monkeypatch, columns, bar):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    assert program("stage=mlm", *SMALL_STAGE1, "pretraining.epochs=2", "logger=csv") == 0
    printed = capfd.readouterr().out
    assert ("━" in printed) == bar
    figures = r"epoch 1/2, step \d/6, about 5 s left, loss" if bar else r"1/2 \d/6 5 s \d+\.\d\d \d+\.\dk/s"
    assert re.search(figures, COLOUR.sub("", printed))
    codes = {code for sequence in COLOUR.findall(printed) for code in sequence[2:-1].split(";")}
    assert codes <= {"", "0", "1", "2"}  # bold and dim, no colour


@pytest.mark.slow
def test_a_finished_run_shows_its_end_again_and_tells_the_next_ones_time(program, capfd):
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == 0
    first = capfd.readouterr().out
    assert "  time   told after the first steps\n" in first
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == 0
    again = capfd.readouterr().out
    assert again.startswith("demo-tiny-bow-seed1 is finished: dev/perplexity")
    assert again.splitlines()[1:] == first.splitlines()[-len(again.splitlines()) + 1 :]
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv", "seed=2") == 0
    assert "  time   about 5 s, by 1 earlier run on this data\n" in capfd.readouterr().out


class Idle(Stage):
    def trained_modules(self):
        return []

    def counts(self, batch):
        return {}


class Loss:
    """Counts how often it is read: a GPU would be waited for."""

    def __init__(self):
        self.reads = 0

    def __float__(self):
        self.reads += 1
        return 1.0


@pytest.mark.parametrize(("log_seconds", "reads"), [(1e9, 0), (0.0, 3)])
def test_without_a_terminal_the_loss_is_read_for_a_line_of_log_alone(monkeypatch, capfd, log_seconds, reads):
    monkeypatch.setattr(screen, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr(screen, "LOG_SECONDS", log_seconds)
    monkeypatch.setattr(screen, "LOG_LINES", 1e9)
    shown, trainer, loss = screen.TrainingScreen(later=lambda: 0), quiet_trainer(1, lightning.Callback()), Loss()
    monkeypatch.setattr(type(trainer), "num_training_batches", 4)
    optimisation = Optimisation(learning_rate=1e-3, weight_decay=0.0, warmup_share=0.0, gradient_clip_norm=1.0)
    shown.on_train_start(trainer, Idle(optimisation))
    for batch in range(4):
        if batch:
            monkeypatch.setattr(type(trainer), "global_step", 2)  # past the first step
        shown.on_train_batch_end(trainer, shown.stage, {"loss": loss}, {}, batch)
    assert loss.reads == capfd.readouterr().out.count("loss 1.000") == reads


@pytest.mark.slow
def test_conditions_of_a_sweep_are_kept_apart(program, capfd):
    """Held away: runs that differ in more than seeds in one row, as seeds."""
    sweep = ["encoder=base", "protocol.epochs=1,2", "seed=1,1"]
    assert program("stage=sentiment", *SMALL_STAGE2[:-1], *sweep, "logger=csv", "-m") == 0
    printed = capfd.readouterr().out
    assert printed.startswith("sweep of 2 jobs\n")
    assert re.search(r"  protocol\.epochs +1, 2\n", printed)
    end = printed[printed.index("sweep: 2 of 2 jobs finished") :]
    assert [len(re.findall(rf"  protocol\.epochs={n} .*\(1 run\)", end)) for n in (1, 2)] == [1, 1]


@pytest.mark.parametrize(("signal", "code", "words"), [("SIGINT", 130, "Ctrl-C"), ("SIGTERM", 75, "SIGTERM")])
def test_a_run_that_is_stopped_says_so_and_can_be_done_again(
    program, tmp_path, capfd, monkeypatch, signal, code, words
):
    from poolwise.stages.mlm import MaskedLanguageModelling

    step = MaskedLanguageModelling.training_step

    def stopped(self, batch, batch_idx):
        os.kill(os.getpid(), getattr(signals, signal))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MaskedLanguageModelling, "training_step", stopped)
    signals.signal(signals.SIGINT, signals.default_int_handler)  # a background shell has it ignored
    handlers = [signals.getsignal(number) for number in (signals.SIGINT, signals.SIGTERM)]
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == code
    for number, handler in zip((signals.SIGINT, signals.SIGTERM), handlers, strict=True):
        signals.signal(number, handler)
    assert f"stopped by {words}; the same command goes on where it was stopped" in capfd.readouterr().out
    (file,) = (tmp_path / "runs/mlm").glob("*/record.json")
    assert json.loads(file.read_text())["status"] == "interrupted"
    monkeypatch.setattr(MaskedLanguageModelling, "training_step", step)
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == 0
    assert json.loads(file.read_text())["status"] == "finished"


@pytest.mark.slow
def test_the_command_after_stage_1_on_text_alone_names_the_exports(program, tmp_path, capfd):
    """Held away: a command that asks for the dev split of labelled files, and so for a run that was never made."""
    (tmp_path / "texts.txt").write_text("\n".join(f"The film number {n} is good. I like it." for n in range(60)))
    own = ["data=files", f"data.text={tmp_path / 'texts.txt'}", "data.max_length=16", "pretraining.epochs=1"]
    small = [setting for setting in SMALL_STAGE1 if setting.startswith(("model", "trainer"))]
    assert program("stage=mlm", *own, *small, "logger=csv", "seed=1,2", "-m") == 0
    printed = capfd.readouterr().out
    command = re.search(r"next +python train\.py (.*) -m  # with labelled texts", printed).group(1).split()
    exports = sorted(str(folder) for folder in (tmp_path / "runs/mlm").glob("*/export"))
    assert f"encoder={','.join(exports)}" in command
    for split in ("TRAIN", "DEV", "TEST"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "".join(f"film {n},{n % 2}\n" for n in range(20)))
    command = [word.replace("=TRAIN", f"={tmp_path}/TRAIN").replace("=DEV", f"={tmp_path}/DEV") for word in command]
    command = [word.replace("=TEST", f"={tmp_path}/TEST").replace("repr=cls,pooler", "repr=cls") for word in command]
    command = [word.replace("repr=cls,mean,cls_linear", "repr=cls") for word in command]
    assert program(*command, "seed=1", "logger=csv", "-m") == 0
    assert "sweep: 2 of 2 jobs finished" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("budget", "length", "time"),
    [
        ("8steps", "8 steps; an epoch has 3 steps of 32 texts", "told after the first steps"),
        ("9000tokens", "9,000 tokens; an epoch has 3 steps of 32 texts", "told after the first steps"),
        (
            "0.9s",
            "0.9 s of training; an epoch has 3 steps of 32 texts",
            "about 5 s by the budget, and what is measured",
        ),
    ],
)
def test_the_screen_of_a_budget(program, capfd, at_once, budget, length, time):
    assert program("stage=mlm", *SMALL_STAGE1, f"budget={budget}", "logger=csv") == 0
    printed = capfd.readouterr().out
    assert f"  for    {length}; 32-true on cpu" in printed
    assert f"  time   {time}" in printed
    shares = re.findall(r"epoch \d+, step [\d,]+, (\d+)% done, about .* left, loss [\d.]+, [\d,]+ tokens/s", printed)
    assert len(shares) >= 2
    assert [int(share) for share in shares] == sorted(int(share) for share in shares)
    assert f" stage1.budget={budget} " in printed
