"""What a run survives: kills, full disks, damaged files, signals, clock jumps, and many jobs in one process.

    python experiments/faults/faults.py [PART ...] [--tries=N]

Each trial is a process of its own that runs the program as `train.py` does. They are forked from this one, which has
imported the libraries and done nothing else, as loading them takes ten times as long as a run. Results go to
`results.csv` beside this file, a line a trial.
"""

import argparse
import csv
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
SEED = 8
LIMIT_SECONDS = 300
"""Of one process; one that takes longer hangs."""
SMALL = (
    "data.text=96 data.text_dev=32 data.train=64 data.dev=32 data.test=40 data.max_length=96 model.hidden_size=32 "
    "model.layers=2 model.attention_heads=2 model.intermediate_size=64 model.vocabulary_size=400 "
    "trainer.accelerator=cpu trainer.precision=32-true trainer.log_every_n_steps=1 checkpoint_minutes=0 logger=csv"
).split()
STAGE_1 = ["stage=mlm", *SMALL, "pretraining.epochs=3", "pretraining.batch_size=32"]
STAGE_2 = ["stage=sentiment", "encoder=base", "repr=mean", "seed=1", *SMALL, "protocol.epochs=2"]
AFTER_STAGE_1 = [
    *("stage=sentiment", "repr=pooler", "seed=1", *SMALL, "protocol.epochs=1"),
    *("stage1.epochs=3", "stage1.batch_size=32"),
]
SWEEP = [*STAGE_2[:3], *SMALL, "protocol.epochs=1", "seed=1,2,3", "-m"]
FROZEN = [*STAGE_2[:4], *SMALL, "protocol=frozen", "protocol.epochs=2", "repr=layer_mix"]
COMMANDS = {"stage 1": STAGE_1, "stage 2": STAGE_2, "sweep": SWEEP}
OFFLINE = ["logger=wandb", "logger.mode=offline"]
OTHERWISE = {
    "stage 1, views, accumulated, a worker, W&B": [
        *(*STAGE_1[:-1], "pretraining.batch_size=8", "objective=views", "trainer.accumulate_grad_batches=2"),
        *("workers=1", *OFFLINE),
    ],
    "stage 2, unfrozen by layers, stopped early, W&B": [
        *(*STAGE_2[:-1], "protocol.epochs=4", "protocol.gradual_unfreezing=true", "protocol.early_stopping=2"),
        *OFFLINE,
    ],
}
"""More that has state."""
CLOCK_FIGURES = ("train/tokens_per_second",)
SURVIVED, TOLD, FAILED = "survived exactly", "told, nothing damaged", "FAILED"


@dataclass(frozen=True)
class Trial:
    """One fault and what came of it.

    Attributes:
        part: of the suite.
        run: what ran.
        fault: what was done to it.
        code: exit code of the process that met the fault; minus the signal's number for a killed one.
        outcome: one of three.
        note: the message, or what was wrong.
        went_on_after: steps of the optimiser after which runs went on from a checkpoint; empty where all began anew.
    """

    part: str
    run: str
    fault: str
    code: int
    outcome: str
    note: str
    went_on_after: str = ""


def load_libraries() -> None:
    """Import what a run imports; no thread and no state of a run is made."""
    import datasets  # noqa: F401
    import pandas  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401
    import wandb  # noqa: F401

    import poolwise.app
    import poolwise.jobs
    import poolwise.stages.sweep  # noqa: F401


def start(arguments: Sequence[str], place: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Run the program in a new process, with its runs, cache and screen under `place`; the process's id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        place.mkdir(parents=True, exist_ok=True)
        screen = os.open(screen_file(place), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(screen, 1)
        os.dup2(screen, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        from poolwise import app

        sys.argv = ["train.py", f"runs_dir={place}/runs", f"cache_dir={place}/cache", *arguments]
        app.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def wait(process: int, look: Callable[[], None] = lambda: None) -> int:
    """The exit code of a process; `look` is called often meanwhile. One that hangs is killed."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
        look()
        time.sleep(0.002)


def run(arguments: Sequence[str], place: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Run the program to its end; its exit code."""
    return wait(start(arguments, place, prepare))


def seconds_of(process: int) -> float:
    """Seconds of a processor that a process has had, whatever else the machine does; endless when it has ended."""
    try:
        return time.clock_gettime((~process << 3) | 2)
    except OSError:
        return float("inf")


def run_and_send(arguments: Sequence[str], place: Path, number: int, after: float) -> int:
    """Run the program, and send it a signal when it has had so many seconds of a processor; its exit code.

    Where it ends before that does anything, it is run anew and gets the signal earlier.
    """
    process, sent = start(arguments, place), False

    def look() -> None:
        nonlocal sent
        if not sent and after <= seconds_of(process) < float("inf"):
            os.kill(process, number)
            sent = True

    code = wait(process, look)
    if sent and code != 0:
        return code
    shutil.rmtree(place)
    return run_and_send(arguments, place, number, 0.8 * after)


def screen_file(place: Path) -> Path:
    """What the last run under `place` showed, where no disk is filled."""
    root = Path(tempfile.gettempdir())
    return root / ("_".join(place.relative_to(root).parts) + ".txt")


def screen_of(place: Path) -> str:
    """What the last run under `place` showed."""
    return screen_file(place).read_text(errors="replace")


def without_clocks(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures less those that a clock decides."""
    return {name: value for name, value in figures.items() if name not in CLOCK_FIGURES}


def outcomes(place: Path) -> dict[str, dict[str, Any]]:
    """By folder, what finished runs under `place` left: figures, logged lines, hashes of weights and predictions."""
    import pandas

    found = {}
    for file in sorted(place.glob("runs/*/*/record.json")):
        record, folder = json.loads(file.read_text()), file.parent
        lines = [without_clocks(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        made: dict[str, Any] = {
            "status": record["status"],
            "figures": without_clocks(record.get("metrics", {})),
            "counts": [record.get(name) for name in ("steps", "tokens", "epochs")],
            "lines": lines,
        }
        if (folder / "export").is_dir():
            made["weights"] = hashlib.sha256((folder / "export/model.safetensors").read_bytes()).hexdigest()
        if (folder / "model").is_dir():
            files = sorted((folder / "model").rglob("*.safetensors"))
            made["weights"] = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        if (folder / "predictions.parquet").is_file():
            predictions = pandas.read_parquet(folder / "predictions.parquet")
            made["predictions"] = repr(predictions.map(lambda value: getattr(value, "tolist", lambda: value)()).values)
            made["predictions"] += repr([logits.tobytes() for logits in predictions["logits"]])
        found[folder.name] = made
    return found


def steps_gone_on_after(place: Path) -> str:
    """After which steps the runs under `place` went on from a checkpoint."""
    records = (json.loads(file.read_text()) for file in sorted(place.glob("runs/*/*/record.json")))
    return " ".join(str(step) for record in records for step in record.get("resumed_at_steps", []))


def doubled(place: Path) -> str:
    """The ids of offline W&B runs that lie under `place` more than once: `wandb sync` would upload both as one run."""
    ids = Counter(folder.name.rpartition("-")[2] for folder in place.glob("runs/wandb/offline-run-*"))
    return ", ".join(name for name, count in ids.items() if count > 1)


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """In which part of which run two outcomes differ; empty where they do not."""
    if expected.keys() != found.keys():
        return f"runs {sorted(found)} in place of {sorted(expected)}"
    parts = [
        f"{run}: {part}" for run in expected for part in expected[run] if found[run].get(part) != expected[run][part]
    ]
    return "; ".join(parts)


def is_told(words: str) -> bool:
    """Whether a screen shows a message and no traceback."""
    return "Traceback" not in words and any(
        mark in words for mark in ("poolwise: ", "stopped by ", " failed: ", "stopped")
    )


def message(words: str) -> str:
    """The line of a screen that tells what happened."""
    for mark in ("poolwise: ", "stopped by ", " failed: ", "damaged", "broken", "not what was written", "WARNING"):
        for line in words.splitlines():
            if mark in line:
                return line.strip()[:200]
    return ""


class Suite:
    """Runs trials, and keeps what came of them.

    Attributes:
        place: a folder for all of it.
        tries: how many moments of each kind are tried.
        trials: what came of them.
    """

    def __init__(self, place: Path, tries: int) -> None:
        self.place = place
        self.tries = tries
        self.trials: list[Trial] = []
        self.random = random.Random(SEED)
        self._references: dict[str, tuple[dict[str, Any], float]] = {}
        self._count = 0

    def reference(self, arguments: Sequence[str]) -> tuple[dict[str, Any], float]:
        """What a command leaves that nothing disturbs, and how many seconds of a processor it took."""
        key = " ".join(arguments)
        if key not in self._references:
            place = self.new_place()
            process, seconds = start(arguments, place), 0.0

            def look() -> None:
                nonlocal seconds
                now = seconds_of(process)
                seconds = seconds if now == float("inf") else now

            code = wait(process, look)
            assert code == 0, screen_of(place)
            self._references[key] = outcomes(place), seconds
            shutil.rmtree(place)
        return self._references[key]

    def new_place(self) -> Path:
        """A new empty folder."""
        self._count += 1
        return self.place / str(self._count)

    def note(self, *facts: Any) -> None:
        """Keep a trial, and show it."""
        trial = Trial(*facts)
        self.trials.append(trial)
        print(f"{trial.part}: {trial.run}, {trial.fault}: {trial.code}, {trial.outcome}. {trial.note}", flush=True)

    def moments(self, name: str, count: int) -> list[float]:
        """Random moments of a command's run, in seconds of a processor."""
        seconds = self.reference({**COMMANDS, **OTHERWISE}[name])[1]
        return [self.random.uniform(0.02, 0.98) * seconds for _ in range(count)]

    def judge(
        self, part: str, name: str, fault: str, code: int, arguments: Sequence[str], place: Path,
        repair: Callable[[], object] = lambda: None, expected: dict[str, Any] | None = None,
        goes_on: bool = False,
    ) -> None:  # fmt: skip
        """Note what came of a fault: run on after `repair` if it ended the process, and compare with a whole run.

        Args:
            part, name, fault: of the trial.
            code: exit code of the process that met the fault.
            arguments: of the program.
            place: of its files.
            repair: takes the fault away.
            expected: what a whole run leaves; None: that of these arguments.
            goes_on: the fault ends the process by itself, and going on exactly is surviving it.
        """
        expected = expected or self.reference(arguments)[0]
        words, outcome = screen_of(place), SURVIVED
        note = message(words)
        if code != 0:
            repair()
            again = run(arguments, place)
            outcome = SURVIVED if goes_on else TOLD
            if not goes_on and not is_told(words):
                outcome, note = FAILED, f"not told: {words.strip()[-200:]}"
            if again != 0:
                outcome, note = FAILED, f"cannot go on: {again}, {message(screen_of(place))}"
        wrong = difference(expected, outcomes(place))
        if twice := doubled(place):
            wrong += f"; the offline W&B run {twice} is there more than once"
        if wrong and outcome != FAILED:
            outcome, note = FAILED, f"differs in {wrong}; {note}"
        self.note(part, name, fault, code, outcome, note.replace(str(place), "PLACE"), steps_gone_on_after(place))
        if outcome != FAILED:
            shutil.rmtree(place)


MANY = 5
"""Kills, of which one at least must fall where there is a checkpoint."""


def kills(suite: Suite) -> None:
    """`kill -9` at random moments; the same command again, which goes on from a checkpoint at times."""
    counts = {"stage 1": suite.tries, "stage 2": suite.tries, "sweep": (suite.tries + 1) // 2}
    counts |= dict.fromkeys(OTHERWISE, (suite.tries + 3) // 4)
    for name, count in counts.items():
        arguments = {**COMMANDS, **OTHERWISE}[name]
        for moment in suite.moments(name, count):
            place = suite.new_place()
            code = run_and_send(arguments, place, signal.SIGKILL, moment)
            suite.judge("kill -9", name, f"after {moment:.2f} s", code, arguments, place, goes_on=True)
        if count >= MANY and not any(trial.went_on_after for trial in suite.trials if trial.run == name):
            suite.note("kill -9", name, f"all {count} kills", 0, FAILED, "each began anew: no checkpoint was used")


def signals(suite: Suite) -> None:
    """Signals to stop at random moments: the documented exit code and a message; the same command again."""
    for number, wanted in ((signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)):
        for name in COMMANDS:
            for moment in suite.moments(name, max(suite.tries // 5, 1)):
                place = suite.new_place()
                code = run_and_send(COMMANDS[name], place, number, moment)
                fault = f"{number.name} after {moment:.2f} s"
                if code not in (0, wanted) or (code and not is_told(screen_of(place))):
                    words = screen_of(place).strip()[-200:]
                    suite.note("signal", name, fault, code, FAILED, f"{wanted} and a message were due: {words}")
                    continue
                suite.judge("signal", name, fault, code, COMMANDS[name], place)


WRITTEN = {
    "record.json": "stage 2",
    "metrics.jsonl": "stage 2",
    "resume.ckpt": "stage 1",
    "best.ckpt": "stage 2",
    "predictions.parquet": "stage 2",
    "model.draft/classifier.json": "stage 2",
    "csv/metrics.csv": "stage 2",
    ".lock": "stage 2",
    "export.draft/.": "stage 1",
    "export.draft/config.json": "stage 1",
    "export.draft/tokenizer": "stage 1",
    "export.draft/provenance.json": "stage 1",
    "export.draft/README.md": "stage 1",
    "export.draft/SHA256SUMS": "stage 1",
    "cache/tokens": "stage 1",
    "cache/vocabularies": "stage 1",
    "cache/rows": "own files",
    "cache/states": "frozen encoder",
}
"""What is written, by a part of its name, and by which run."""


def disks(suite: Suite) -> None:
    """No room at each file that is written, by a preloaded `write`; and in a small tmpfs that is truly full."""
    table = own_table(suite)
    commands = {**COMMANDS, "own files": own_files(table), "frozen encoder": FROZEN}
    if "no_room" in os.environ.get("LD_PRELOAD", ""):
        for file, name in WRITTEN.items():
            place = suite.new_place()
            met = suite.new_place()
            code = run(
                commands[name],
                place,
                lambda file=file, met=met: os.environ.update(FULL_DISK_AT=file, FULL_DISK_MET=str(met)),  # type: ignore[misc]
            )
            if not met.exists():
                suite.note("disk full, injected", name, file, code, FAILED, "the fault was not met")
                continue
            suite.judge("disk full, injected", name, file, code, commands[name], place)
    for name in ("stage 1", "stage 2", "frozen encoder"):
        for share in (0.05, 0.3, 0.5, 0.7, 0.9):
            full_tmpfs(suite, name, commands[name], share)


def full_tmpfs(suite: Suite, name: str, arguments: Sequence[str], share: float) -> None:
    """A run on a tmpfs of a share of what it needs at most, which is made larger after it."""
    expected, disk = suite.reference(arguments)[0], suite.new_place()
    needed, place = most_bytes(suite, arguments), disk / "run"
    disk.mkdir()
    answer = suite.place / "answer.txt"
    answer.write_text("")
    process = os.fork()
    if not process:
        inner = Suite(suite.place, 1)
        inner._references[" ".join(arguments)] = expected, 0.0
        try:
            mount(disk, f"size={int(needed * share)}")
            # The check for room asks for 20 MB and more, which would tell in time what is to be met here.
            code = run(arguments, place, lambda: setattr(shutil, "disk_usage", lambda _: ENDLESS))
            mount(disk, f"remount,size={16 * needed + 2**26}")
            inner.judge("disk full, tmpfs", name, f"{share:.0%} of what it needs", code, arguments, place)
        except OSError as error:
            print(f"no tmpfs here: {error}")
        finally:
            answer.write_text(json.dumps([astuple(trial) for trial in inner.trials]))
            os._exit(0)
    os.waitpid(process, 0)
    suite.trials += [Trial(*trial) for trial in json.loads(answer.read_text() or "[]")]


def most_bytes(suite: Suite, arguments: Sequence[str]) -> int:
    """The most bytes that a run takes on disk at a time."""
    place, most = suite.new_place(), 0
    process = start(arguments, place)

    def look() -> None:
        nonlocal most
        with suppress(OSError):  # files come and go
            most = max(most, sum(file.stat().st_blocks for file in place.rglob("*")) * 512)

    wait(process, look)
    shutil.rmtree(place)
    return most


ENDLESS = SimpleNamespace(free=2**60)
CLONE_NEWNS, CLONE_NEWUSER, MS_REMOUNT = 0x00020000, 0x10000000, 32


def mount(place: Path, options: str) -> None:
    """Mount a tmpfs, seen by this process and those that it starts; or change the one that is there."""
    libc, flags = ctypes.CDLL(None, use_errno=True), 0
    if options.startswith("remount"):
        options, flags = options.partition(",")[2], MS_REMOUNT
    elif libc.unshare(CLONE_NEWNS) and libc.unshare(CLONE_NEWNS | CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    if libc.mount(b"none", str(place).encode(), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


def own_table(suite: Suite) -> Path:
    """A person's table, of which rows are kept."""
    from poolwise.data.demo import generate_reviews

    table = suite.place / "reviews.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows((review.text, review.label) for review in generate_reviews(160, seed=0))
    return table


def own_files(table: Path) -> list[str]:
    """Stage 2 on a person's table."""
    settings = [setting for setting in STAGE_2 if not setting.startswith("data.") or "max_length" in setting]
    return [*settings, "data=files", f"data.train={table}"]


def truncated(file: Path) -> None:
    """Take the second half away."""
    os.truncate(file, file.stat().st_size // 2)


def bit_flipped(file: Path, share: float) -> None:
    """Turn one bit over, at a share of the file's length."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 1
    file.write_bytes(content)


def damages(suite: Suite) -> None:
    """Each kind of file cut off, and with bits turned over; then the next command that reads it."""
    table = own_table(suite)
    stopped = {name: stopped_run(suite, COMMANDS[name]) for name in ("stage 1", "stage 2")}
    stopped["offline W&B"] = stopped_run(suite, offline := [*STAGE_2, *OFFLINE])
    for name, file in (
        ("stage 1", "runs/mlm/*/resume.ckpt"),
        ("stage 1", "runs/mlm/*/resume.former.ckpt"),
        ("stage 1", "runs/mlm/*/metrics.jsonl"),
        ("stage 1", "runs/mlm/*/record.json"),
        ("stage 1", "cache/tokens/*.arrow"),
        ("stage 1", "cache/tokens/*.ids"),
        ("stage 1", "cache/vocabularies/*.json"),
        ("stage 2", "runs/sentiment/*/best.ckpt"),
        ("stage 2", "cache/tokens/*.arrow"),
        ("offline W&B", "runs/wandb/offline-run-*/*.wandb"),
    ):
        damage(suite, f"stopped {name}", stopped[name], file, offline if "W&B" in name else COMMANDS[name])

    done = suite.new_place()
    for arguments in (STAGE_2, FROZEN, own_files(table)):
        assert run(arguments, done) == 0, screen_of(done)
    finished = [file.parent for file in done.glob("runs/sentiment/*/record.json")]
    of_stage_2 = next(run.relative_to(done) for run in finished if "frozen" not in run.name and "files" not in run.name)
    damage(suite, "finished stage 2", done, f"{of_stage_2}/record.json", STAGE_2)
    damage(suite, "finished stage 2", done, f"{of_stage_2}/predictions.parquet", STAGE_2)
    damage(suite, "finished stage 2", done, f"{of_stage_2}/metrics.jsonl", STAGE_2)
    for folder in finished:
        shutil.rmtree(folder)
    damage(suite, "frozen encoder", done, "cache/states/*/first.npy", FROZEN)
    damage(suite, "own files", done, "cache/rows/*.arrow", own_files(table))

    exported = suite.new_place()
    assert run(STAGE_1, exported) == 0, screen_of(exported)
    for name in ("model.safetensors", "config.json", "provenance.json", "tokenizer.json", "tokenizer_config.json"):
        damage(suite, "after stage 1", exported, f"runs/mlm/*/export/{name}", AFTER_STAGE_1)


def stopped_run(suite: Suite, arguments: Sequence[str]) -> Path:
    """A run that was killed when it had logged half of its lines."""
    place = suite.new_place()
    expected = suite.reference(arguments)[0]
    (lines,) = [len(of_run["lines"]) for of_run in expected.values()]
    process = start(arguments, place)

    def look() -> None:
        for file in place.glob("runs/*/*/metrics.jsonl"):
            if len(file.read_text().splitlines()) > lines / 2:
                os.kill(process, signal.SIGKILL)

    wait(process, look)
    return place


def damage(suite: Suite, name: str, place: Path, pattern: str, arguments: Sequence[str]) -> None:
    """Damage a file under `place`, three ways, and run a command there; what was there is put back at the end."""
    whole = suite.new_place()
    shutil.copytree(place, whole, symlinks=True)

    def put_back() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place, symlinks=True)

    if name.startswith("stopped"):
        expected = suite.reference(STAGE_2 if "wandb" in pattern else arguments)[0]
    else:
        assert run(arguments, place) == 0, screen_of(place)
        expected = outcomes(place)
    for how in ("cut off", "a bit turned over in its first half", "a bit turned over in its second half"):
        put_back()
        file = min(place.glob(pattern))
        before = file.read_bytes()
        if how == "cut off":
            truncated(file)
        else:
            bit_flipped(file, suite.random.uniform(0.1, 0.5) + 0.4 * ("second" in how))
        code = run(arguments, place)
        suite.judge(
            *("damage", name, f"{pattern} {how}", code, arguments, place),
            repair=partial(file.write_bytes, before),
            expected=expected,
        )
    put_back()
    shutil.rmtree(whole)


def clocks(suite: Suite) -> None:
    """Clocks that jump by a day, in the middle of a run and in each checkpoint's time."""
    with_budget = [*STAGE_1, "budget=2s"]
    for clock in ("time", "perf_counter", "monotonic"):
        for jump in (86400, -86400):
            for name, arguments in COMMANDS.items():
                place, after = suite.new_place(), suite.random.randrange(20, 200)
                code = run(arguments, place, lambda c=clock, j=jump, a=after: make_jump(c, j, a))  # type: ignore[misc]
                suite.judge("clock", name, f"{clock} {jump:+} s at call {after}", code, arguments, place)
            place = suite.new_place()
            code = run(with_budget, place, lambda c=clock, j=jump: make_jump(c, j, 60))  # type: ignore[misc]
            records = [json.loads(file.read_text()) for file in place.glob("runs/*/*/record.json")]
            ended = code == 0 and [r["status"] for r in records] == ["finished"] and records[0]["training_seconds"] >= 0
            facts = f"{records[0].get('steps')} steps, {records[0].get('training_seconds')} s" if records else ""
            fault = f"{clock} {jump:+} s at call 60"
            suite.note("clock", "stage 1 for 2 s", fault, code, SURVIVED if ended else FAILED, facts)
            shutil.rmtree(place)


def make_jump(clock: str, jump: float, after: int) -> None:
    """Have a clock of `time` jump by so many seconds at its n-th call."""
    real, calls = getattr(time, clock), 0

    def jumping() -> float:
        nonlocal calls
        calls += 1
        return real() + (jump if calls > after else 0)

    setattr(time, clock, jumping)


SOAKED = 200
"""Jobs of one process."""
WARM = 20
"""Jobs after which memory and handles are read first."""
GROWTH_MIB = 32
"""What resident memory may grow by from then on."""


def soak(suite: Suite) -> None:
    """Many tiny jobs in one process, each an offline W&B run: memory and file handles stay as they are."""
    place = suite.new_place()
    seeds = ",".join(map(str, range(1, SOAKED + 1)))
    tiny = ["data.train=16", "data.dev=8", "data.test=8", "data.text=16", "data.text_dev=8"]
    process = start([*STAGE_2[:3], *SMALL, *tiny, *OFFLINE, "protocol.epochs=1", f"seed={seeds}", "-m"], place)
    read: dict[int, tuple[float, int]] = {}
    looked = 0.0

    def look() -> None:
        nonlocal looked
        if time.monotonic() - looked < 0.2:
            return
        looked = time.monotonic()
        done = len(list(place.glob("runs/sentiment/*/predictions.parquet")))
        if done >= WARM:
            try:
                pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
                handles = len(list(Path(f"/proc/{process}/fd").iterdir()))
                read[done] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20, handles
            except (OSError, IndexError):
                return

    global LIMIT_SECONDS
    LIMIT_SECONDS, before = 3600, LIMIT_SECONDS
    code = wait(process, look)
    LIMIT_SECONDS = before
    read = {done: figures for done, figures in read.items() if figures[0] > 0}
    assert read, screen_of(place)
    (memory, handles), (memory_then, handles_then) = read[min(read)], read[max(read)]
    flat = memory_then - memory <= GROWTH_MIB and handles_then <= handles + 2
    note = f"resident {memory:.0f} MiB after job {min(read)}, {memory_then:.0f} after job {max(read)}; "
    note += f"file handles {handles} and {handles_then}"
    suite.note("soak", f"sweep of {SOAKED} jobs", "none", code, SURVIVED if flat and code == 0 else FAILED, note)


PARTS = {"kills": kills, "signals": signals, "disks": disks, "damages": damages, "clocks": clocks, "soak": soak}


def table_of(trials: Sequence[Trial]) -> Iterator[str]:
    """How many trials of each part ended how, as lines of Markdown."""
    yield f"| fault | run | tried | went on from a checkpoint | {SURVIVED} | {TOLD} | {FAILED} |"
    yield "|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.part, trial.run), []).append(trial)
    for (part, name), found in groups.items():
        counts = Counter(trial.outcome for trial in found)
        figures = " | ".join(str(counts[outcome]) for outcome in (SURVIVED, TOLD, FAILED))
        went_on = sum(trial.went_on_after != "" for trial in found)
        yield f"| {part} | {name} | {len(found)} | {went_on} | {figures} |"


def preload() -> None:
    """Start this program anew with the `write` that can fail, if there is a C compiler."""
    if "LD_PRELOAD" in os.environ or not shutil.which("cc"):
        return
    library = Path(tempfile.gettempdir()) / f"no_room.{os.getpid()}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "no_room.c", "-ldl"], check=True)
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": str(library)})


def main() -> None:
    """Run the suite, or parts of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all of them if none is named")
    parser.add_argument("--tries", type=int, default=20, help="random moments of each kind")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--keep", action="store_true", help="leave the files of trials that failed")
    arguments = parser.parse_args()
    preload()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    load_libraries()
    place = Path(tempfile.mkdtemp(prefix="poolwise-faults-"))
    suite = Suite(place, arguments.tries)
    try:
        for part in arguments.parts or PARTS:
            started = time.monotonic()
            PARTS[part](suite)
            print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)
    finally:
        with arguments.results.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(field.name for field in fields(Trial))
            writer.writerows(astuple(trial) for trial in suite.trials)
        print(*table_of(suite.trials), sep="\n")
        if arguments.keep:
            print(place)
        else:
            shutil.rmtree(place, ignore_errors=True)
            for file in place.parent.glob(f"{place.name}_*.txt"):
                file.unlink()
    raise SystemExit(any(trial.outcome == FAILED for trial in suite.trials))


if __name__ == "__main__":
    main()
