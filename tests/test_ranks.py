"""Two processes train as one does: weights, figures, predictions and what is written."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import load_file

from helpers import REPOSITORY, SMALL_RUN, TEXTS, kept_weights
from poolwise import app, ranks
from poolwise.data import tokens
from poolwise.encoder import BertForMaskedLMWithPooler
from poolwise.settings import UserError
from poolwise.stages.mlm import MaskedLanguageModelling
from poolwise.stages.sentiment import Sentiment

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")

QUIET = ["logger=csv", "trainer.log_every_n_steps=1"]
STAGE1 = ["stage=mlm", *SMALL_RUN, "pretraining.epochs=2", "pretraining.batch_size=32", *QUIET]
STAGE2 = ["stage=sentiment", "encoder=base", *SMALL_RUN, "protocol.epochs=2", "protocol.dropout=0.0", *QUIET]
OF_TORCH = re.compile(r".*reducer.cpp.*\n")  # where torch was loaded before its level could be set
SPEED = "train/tokens_per_second"
# Not divisible by two, nor are their batches.
ODD = ["data.text=95", "data.text_dev=35", "data.train=63", "data.dev=31", "data.test=37"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def as_srun_would(rank: int, processes: int, port: int, log: Path, do: Callable[[], None]) -> None:
    """Do something as one of the tasks of a job step of SLURM, and end with its exit code."""
    names = {"JOB_ID": 7001, "STEP_ID": 0, "NTASKS": processes, "NTASKS_PER_NODE": processes, "NNODES": 1}
    names |= {"PROCID": rank, "LOCALID": rank, "NODEID": 0}
    os.environ |= {f"SLURM_{name}": str(value) for name, value in names.items()}
    os.environ |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream
        code: int | str | None = 1
        try:
            do()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        stream.flush()
        os._exit(int(code))


def together(folder: Path, do: Callable[[int], None], processes: int = 2) -> list[tuple[int, str]]:
    """The exit code and the output of each of several processes that do something together."""
    port, fork = free_port(), multiprocessing.get_context("fork")
    logs = [folder / f"{rank}.log" for rank in range(processes)]
    started = [
        fork.Process(target=as_srun_would, args=(rank, processes, port, logs[rank], lambda rank=rank: do(rank)))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode is not None
    return [(process.exitcode, log.read_text()) for process, log in zip(started, logs, strict=True)]


@pytest.fixture
def both(tmp_path, monkeypatch):
    """`train.py` in two processes; returns their exit codes and what they print."""
    monkeypatch.setattr("hydra._internal.utils.is_under_debugger", lambda: False)

    def run(
        *arguments: str, processes: int = 2, do_first: Callable[[int], None] = lambda rank: None
    ) -> list[tuple[int, str]]:
        places = [f"runs_dir={tmp_path / 'together'}", f"cache_dir={tmp_path / 'cache'}"]

        def train(rank: int) -> None:
            do_first(rank)
            sys.argv = ["train.py", *places, *arguments, "trainer=ddp", "trainer.accelerator=cpu"]
            app.main()

        return together(tmp_path, train, processes)

    return run


def folder_of(runs: Path) -> Path:
    (record,) = runs.glob("*/*/record.json")
    return record.parent


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def lines_of(folder: Path) -> pandas.DataFrame:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return pandas.DataFrame(rows).drop(columns=[SPEED])


def assert_close(one: Path, several: Path, processes: int | None = 2, tolerance: float = 1e-4) -> None:
    """Both runs ended with the same, but for rounding."""
    expected, found = record_of(one), record_of(several)
    assert (found["key"], found["status"], found.get("processes")) == (expected["key"], "finished", processes)
    for name in ("steps", "tokens"):
        assert found[name] == expected[name]
    for record in (expected, found):
        record["metrics"].pop(SPEED, None)
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-2, abs=tolerance)
    pandas.testing.assert_frame_equal(lines_of(several), lines_of(one), check_like=True, rtol=1e-2, atol=tolerance)
    of = (lambda run: load_file(run / "export/model.safetensors")) if (one / "export").exists() else kept_weights
    weights, others = of(one), of(several)
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        if name.endswith("key.bias"):
            continue  # which changes nothing in a softmax: Adam makes steps of the rounding of its gradient
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=tolerance)


MORE_TEXTS = [f"{text} {number} {other}" for number, (text, other) in enumerate(product(TEXTS, TEXTS))]
WITHOUT_DEMO = [setting for setting in STAGE1 if not re.match(r"data\.(text|text_dev|train|dev|test)=", setting)]
OF_FOLDER = [*(setting for setting in STAGE1 if not setting.startswith("model.")), *ODD, "model=./encoder"]
SETTINGS = {
    "stage 1": [*STAGE1, *ODD, "objective=views"],
    "stage 2": [*STAGE2, *ODD, "repr=mean", "seed=1"],
    "halves and bag of words": [*STAGE1, *ODD, "objective=combined"],
    "accumulated batches of tokens": [
        *(*STAGE1, *ODD, "objective=bow", "pretraining.batch_tokens=700", "+trainer.accumulate_grad_batches=2"),
    ],
    "pairs, and a budget": [*STAGE1, *ODD, "objective=sop", "budget=9000tokens"],
    "the pooler alone, on the states of an encoder": [*OF_FOLDER, "objective=bow", "trainable=pooler"],
    "the pooler alone, on texts": [*OF_FOLDER, "objective=views", "trainable=pooler"],
    "a stream": [
        *(*WITHOUT_DEMO, "data=files", "data.text=train.txt", "data.text_dev=dev.txt", "data.streaming=true"),
        *("data.shuffle_buffer=20", "budget=5steps", "pretraining.batch_size=8", "objective=views"),
    ],
    "a frozen encoder": [*STAGE2, *ODD, "protocol=frozen", "repr=layer_mix", "seed=1"],
    "layers unfrozen one by one, weighted classes": [
        *(*STAGE2, *ODD, "repr=pooler", "seed=1"),
        *("protocol.gradual_unfreezing=true", "protocol.imbalance=class_weights"),
    ],
    "two passes of each text": [*STAGE1, *ODD, "objective=simcse", "model.dropout=0.0"],
    "a decoder of its own": [*STAGE1, *ODD, "objective=decoder"],
    "ratings": [*STAGE1, *ODD, "objective=rating"],
    "pairs of two texts": [*STAGE1, *ODD, "objective=nsp"],
    "classes drawn alike": [*STAGE2, *ODD, "repr=pooler", "seed=1", "protocol.imbalance=balanced_sampling"],
    "long texts in windows": [
        *(setting for setting in STAGE2 if not setting.startswith("data.max_length=")),
        *(*ODD, "repr=mean", "seed=1", "data.max_length=16", "data.long_texts=windows"),
    ],
}
QUICK = ("stage 1",)


def write_texts() -> None:
    """The files of the stream, in the current folder."""
    Path("train.txt").write_text("\n".join(MORE_TEXTS[:31]))
    Path("dev.txt").write_text("\n".join(MORE_TEXTS[31:]))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SETTINGS])
def test_two_processes_end_as_one(program, both, config, tokenizer, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    config.initializer_range = 0.2  # so that its states tell texts apart, and gradients are no rounding
    BertForMaskedLMWithPooler(config).save_pretrained("encoder")
    tokenizer.save_pretrained("encoder")
    write_texts()
    assert program(*SETTINGS[name]) == 0
    outcomes = both(*SETTINGS[name])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    one, several = folder_of(tmp_path / "runs"), folder_of(tmp_path / "together")
    assert_close(one, several)
    if name == "stage 2":
        expected, found = (pandas.read_parquet(folder / "predictions.parquet") for folder in (one, several))
        assert found["example"].tolist() == [*range(31), *range(37)]
        for column in ("split", "example", "label"):
            assert found[column].tolist() == expected[column].tolist()
        assert np.abs(np.stack(found["logits"]) - np.stack(expected["logits"])).max() < 1e-3


@pytest.mark.slow
def test_torchrun_starts_the_processes_and_meets_their_exit_codes(program, tmp_path):
    """The launcher itself, as the README's command has it."""
    settings = [*STAGE1, *ODD, "objective=views"]
    assert program(*settings) == 0
    places = [f"runs_dir={tmp_path / 'together'}", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu"]
    words = ["--standalone", "--nproc-per-node", "2", str(REPOSITORY / "train.py"), "trainer=ddp", *places]

    def torchrun(*further: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", *words, *further]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = torchrun(*settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished in") == 1
    assert_close(folder_of(tmp_path / "runs"), folder_of(tmp_path / "together"))
    refused = torchrun(*settings, "pretraining.epochs=0")
    assert refused.returncode == 1
    assert refused.stderr.count("pretraining.epochs=0: must be at least 1") == 1


@pytest.mark.slow
def test_two_machines_that_torchrun_joins_end_as_one_process(program, tmp_path):
    """Two agents that meet as those of two machines do; this one stands for both."""
    settings = [*STAGE1, *ODD, "objective=views"]
    assert program(*settings) == 0
    places = [f"runs_dir={tmp_path / 'together'}", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu"]
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--local-addr", "127.0.0.1"]
    words += ["--rdzv-endpoint", f"localhost:{free_port()}", str(REPOSITORY / "train.py"), "trainer=ddp", *places]
    command = [sys.executable, "-m", "torch.distributed.run", *words, *settings]
    agents = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    told = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    assert sum(words.count("finished in") for words in told) == 1
    assert_close(folder_of(tmp_path / "runs"), folder_of(tmp_path / "together"))


def stop_in_step(number: int) -> None:
    """Have this process get a SIGTERM in a step of either stage."""
    for stage in (MaskedLanguageModelling, Sentiment):

        def training_step(self, batch, batch_idx, step=stage.training_step):
            if self.global_step == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, batch, batch_idx)

        stage.training_step = training_step


STOPPED = {
    "texts that are kept": [*STAGE1, *ODD, "objective=none", "pretraining.batch_size=16"],
    "stage 2": SETTINGS["stage 2"],
    "a stream": [*SETTINGS["a stream"], "pretraining.batch_size=6", "budget=10steps"],
    "accumulated batches of tokens": [*SETTINGS["accumulated batches of tokens"], "pretraining.batch_tokens=300"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("name", STOPPED)
def test_a_run_goes_on_in_another_number_of_processes(program, both, tmp_path, monkeypatch, name, before, after):
    """Within an epoch: the position in it is counted in batches of all processes."""
    monkeypatch.chdir(tmp_path)
    write_texts()
    settings = [*STOPPED[name], "checkpoint_minutes=0"]
    assert program(*settings) == 0

    first = both(*settings, processes=before, do_first=lambda rank: stop_in_step(4) if rank == before - 1 else None)
    assert [code for code, _ in first] == [75] * before, first
    assert record_of(folder_of(tmp_path / "together"))["status"] == "interrupted"
    second = both(*settings, processes=after)
    assert [code for code, _ in second] == [0] * after, second
    several = folder_of(tmp_path / "together")
    assert record_of(several)["resumed_at_steps"] == [5]
    assert_close(folder_of(tmp_path / "runs"), several, processes=None if after == 1 else after)


@pytest.mark.slow
def test_as_many_processes_go_on_bit_for_bit(both, tmp_path):
    """With dropout, which each process draws for itself."""
    settings = [*STAGE1, *ODD, "objective=simcse", "model.dropout=0.1", "pretraining.batch_size=16"]
    assert [code for code, _ in both(*settings, f"runs_dir={tmp_path / 'whole'}")] == [0, 0]
    stopped = both(*settings, do_first=lambda rank: stop_in_step(4) if rank == 1 else None)
    assert [code for code, _ in stopped] == [75, 75]
    assert [code for code, _ in both(*settings)] == [0, 0]
    whole, resumed = (
        load_file(folder_of(tmp_path / runs) / "export/model.safetensors") for runs in ("whole", "together")
    )
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_the_first_process_alone_speaks_writes_and_locks(both, tmp_path):
    settings = [*STAGE2, *ODD, "repr=cls", "seed=1,1", "logger=wandb", "-m"]

    def refuse_to_tokenise(*arguments: object) -> None:
        raise AssertionError("tokenised by two processes")

    def tokenise_in_the_first_alone(rank: int) -> None:
        if rank:
            tokens.encoded = tokens.train_wordpiece = refuse_to_tokenise

    (code, told), (other_code, other_told) = both(*settings, do_first=tokenise_in_the_first_alone)
    assert (code, other_code) == (0, 0), other_told
    assert told.count("finished in") == 1
    assert "in each of 2 processes" in told
    assert not OF_TORCH.sub("", other_told)
    assert len(list((tmp_path / "together/wandb").glob("offline-run-*"))) == 1
    assert len(list((tmp_path / "cache/tokens").glob("*.arrow"))) == 3
    (code, told), (other_code, other_told) = both(*settings)
    assert (code, other_code, other_told) == (0, 0, "")
    assert "1 of 1 job finished, 1 of them before" in told


@pytest.mark.slow
def test_a_process_that_fails_alone_says_so_and_ends_the_sweep(both, tmp_path, monkeypatch):
    """Nobody waits for it, and no later job is begun by processes that are out of step."""
    monkeypatch.setattr(ranks, "FIRST_SPEAKS_SECONDS", 0.1)

    def fail(rank: int) -> None:
        def training_step(self, batch, batch_idx):
            raise RuntimeError("out of luck")

        if rank == 1:
            monkeypatch.setattr(Sentiment, "training_step", training_step)

    (code, told), (other_code, other_told) = both(*STAGE2, *ODD, "repr=cls", "seed=1,2", "-m", do_first=fail)
    assert (code, other_code) == (1, 1), told + other_told
    assert "process 1: RuntimeError: out of luck" in other_told
    assert record_of(folder_of(tmp_path / "together"))["status"] == "failed"
    assert "sweep: 0 of 2 jobs finished, 0 of them before, 1 failed" in told


def test_a_mistake_ends_all_processes(both, monkeypatch):
    monkeypatch.setattr(ranks, "FIRST_SPEAKS_SECONDS", 0.1)
    (code, told), (other_code, _) = both(*STAGE2, "repr=cls", "protocol=probe")
    assert (code, other_code) == (2, 2)
    assert "trainer=ddp: protocol=probe trains in one process" in told


def test_processes_need_a_launcher_and_a_launcher_needs_to_be_known(program, monkeypatch, capfd):
    assert program(*STAGE1, "trainer=ddp") == 2
    told = capfd.readouterr().err
    assert "torchrun --nproc-per-node 2 train.py ..." in told
    assert "srun --kill-on-bad-exit=1 python train.py ..." in told
    assert program(*STAGE1, "trainer=ddp", "trainer.devices=2") == 2
    assert "trainer.devices=2: must be auto with trainer=ddp" in capfd.readouterr().err
    assert program(*STAGE1, "+trainer.strategy=fsdp") == 2
    assert "trainer.strategy='fsdp': must be ddp" in capfd.readouterr().err
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert ranks.started() == ranks.Place(0, 4, 0, 2, "torchrun")
    assert program(*STAGE1) == 2
    assert "torchrun started 4 processes, and each would do all of this; give trainer=ddp" in capfd.readouterr().err


def test_a_batch_script_of_slurm_is_one_process(monkeypatch):
    for name, value in {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.started() is ranks.ALONE
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert ranks.started() == ranks.Place(0, 2, 0, 1, "srun")


def test_what_processes_tell_each_other(tmp_path):
    """Two processes, the second with more rows: what each asserts of what it gets."""

    def meet(rank: int) -> None:
        ranks.join("cpu")
        assert (ranks.rank(), ranks.size(), ranks.is_first()) == (rank, 2, rank == 0)
        rows = torch.full((rank + 1, 3), float(rank + 1), requires_grad=True)
        found = ranks.gathered(rows)
        assert found.tolist() == [[1.0] * 3, [2.0] * 3, [2.0] * 3]
        (found * torch.arange(3.0)[:, None] * (rank + 1)).sum().backward()
        weights = [0.0] if rank == 0 else [1.0, 2.0]
        assert rows.grad is not None
        assert rows.grad[:, 0].tolist() == [3 * weight for weight in weights]  # 1 of this and 2 of the other process
        assert ranks.totals({"a": rank + 1, "b": 0.5}) == {"a": 3.0, "b": 1.0}
        assert ranks.greatest({"a": rank + 1}) == {"a": 2.0}
        assert ranks.mean(torch.tensor([float(rank)])).tolist() == [0.5]
        assert ranks.of_each(f"I am {rank}") == ["I am 0", "I am 1"]
        assert ranks.first_decides(lambda: rank) == 0
        with pytest.raises(UserError, match="not by 0"):
            ranks.first_decides(lambda: mistake(f"not by {rank}"))
        with ranks.first_alone():
            assert (tmp_path / "made").exists() == (rank == 1)
            (tmp_path / "made").touch()
        ranks.leave()

    def mistake(message: str) -> None:
        raise UserError(message)

    outcomes = together(tmp_path, meet)
    assert outcomes == [(0, ""), (0, "")]


@pytest.mark.slow
def test_one_may_work_alone_for_longer_than_a_step_may_take(tmp_path, monkeypatch):
    """A process that was lost in a step is not waited for as long as one that tokenises a corpus."""
    monkeypatch.setattr(ranks, "STEP_PATIENCE", timedelta(seconds=5))

    def meet(rank: int) -> None:
        ranks.join("cpu")
        with ranks.first_alone():
            time.sleep(0 if rank else 7)
        assert ranks.first_decides(lambda: time.sleep(7) or "done") == "done"
        if rank:
            with pytest.raises(RuntimeError, match=r"(?i)timed out"):
                ranks.mean(torch.ones(1))
        else:
            time.sleep(7)

    outcomes = together(tmp_path, meet)
    assert [code for code, _ in outcomes] == [0, 0], outcomes


def test_one_process_is_handed_what_it_gave():
    rows = torch.ones(2, 3)
    assert ranks.gathered(rows) is rows
    assert ranks.mean(rows) is rows
    assert ranks.of_each(3) == [3]
    assert ranks.totals({"a": 2}) == ranks.greatest({"a": 2}) == {"a": 2.0}
