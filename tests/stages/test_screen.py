import re

import pytest

from helpers import SMALL_STAGE1, SMALL_STAGE2
from poolwise.stages import screen

LINE = re.compile(r"epoch 1/2, step [1-6]/6, about 5 s left, loss \d+\.\d{3}, [\d,]+ tokens/s")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def at_once(monkeypatch):
    """Everything is shown at each step."""
    for name in ("REDRAW_SECONDS", "FIRST_ESTIMATE_SECONDS", "LOG_SECONDS", "LOG_LINES"):
        monkeypatch.setattr(screen, name, 1e9 if name == "LOG_LINES" else 0.0)


def test_a_log_shows_start_progress_and_end(program, capfd, at_once):
    assert program("stage=mlm", *SMALL_STAGE1, "pretraining.epochs=2") == 0
    printed = capfd.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "demo-tiny-bow-seed1"
    assert lines[1] == "  train  tiny from random weights: masked language modelling, pooler objective bow"
    assert re.fullmatch(r"  on     demo: 96 texts, [\d,]+ tokens; dev 32", lines[2])
    assert lines[3] == "  for    2 epochs, 6 steps of 32 texts; 32-true on cpu, 1 thread"
    assert len(LINE.findall(printed)) >= 2
    assert "time    about 5 s by the speed of the first steps" in printed
    assert re.search(r"^finished in \d s: dev/perplexity [\d.]+, dev/masked_accuracy", printed, flags=re.MULTILINE)
    for fact in ("record  ", "W&B     offline; to upload: wandb sync ", "export  "):
        assert f"\n  {fact}" in printed
    assert "next    python train.py stage=sentiment repr=cls,pooler,mean,cls_linear" in printed
    assert "stage1.epochs=2 -m" in printed
    assert "\x1b" not in printed


def test_limits_of_the_trainer_are_in_the_count_and_the_next_command_finds_the_run(program, capfd, at_once):
    assert program("stage=mlm", *SMALL_STAGE1, "+trainer.limit_train_batches=2", "logger=csv") == 0
    printed = capfd.readouterr().out
    assert "for    1 epoch, 2 steps of 32 texts" in printed
    assert "log_every_n_steps" not in printed
    command = re.search(r"next +python train\.py (.*)", printed).group(1)
    assert "/export -m" in command
    small = ["repr=cls", *SMALL_STAGE2[-1:], *(s for s in SMALL_STAGE2 if s.startswith("data."))]
    assert program(*command.split(), *small, "seed=1", "logger=csv") == 0


def test_a_sweep_says_what_it_can_show_and_how_it_ended(program, capfd, at_once):
    assert program("stage=sentiment", "encoder=base", "repr=cls,mean", *SMALL_STAGE2, "seed=1,2", "-m") == 0
    printed = capfd.readouterr().out
    assert printed.startswith("sweep of 4 jobs\n")
    assert re.search(r"  repr +cls, mean\n  seed +1, 2\n", printed)
    assert "differences of about 14.0 points in accuracy, by 40 test texts and 2 seeds" in printed
    assert [f"job {number} of 4: demo-tiny" in printed for number in (1, 2, 3, 4)] == [True] * 4
    assert re.search(r"about \d+ s with the 3 after it", printed)
    assert "HYDRA" not in printed
    end = printed[printed.index("sweep: 4 of 4 jobs finished") :]
    assert re.search(r"demo-tiny-base-cls-finetune +dev/macro_f1 \S+ ± \S+, test/accuracy \S+ ± \S+", end)
    assert re.search(r"  next +python -m poolwise\.report --runs ", end)


def test_a_sweep_with_a_failed_job_says_which_and_why(program, capfd, monkeypatch):
    from poolwise.stages.sentiment import Sentiment

    def failing(self, batch, batch_idx):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Sentiment, "training_step", failing)
    assert program("stage=sentiment", "encoder=base", *SMALL_STAGE2, "seed=1,2", "-m") == 1
    printed = capfd.readouterr().out
    assert "sweep: 0 of 2 jobs finished" in printed
    assert printed.count("failed: RuntimeError: out of luck") == 2


@pytest.mark.parametrize(("columns", "bar"), [("120", True), ("40", False)])
def test_a_terminal_of_any_width_and_without_colour(program, capfd, at_once, monkeypatch, columns, bar):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    assert program("stage=mlm", *SMALL_STAGE1, "pretraining.epochs=2", "logger=csv") == 0
    printed = capfd.readouterr().out
    assert ("━" in printed) == bar
    assert re.search(r"epoch\s+1/2,\s+step\s+\d/6,\s+about", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", printed))
    codes = {code for sequence in COLOUR.findall(printed) for code in sequence[2:-1].split(";")}
    assert codes <= {"", "0", "1", "2"}  # bold and dim, no colour
