import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import submitit
from hydra.core.global_hydra import GlobalHydra
from submitit.core.utils import UncompletedJobError

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2
from poolwise import app
from poolwise.runs import HeldElsewhereError, claimed, write_record
from poolwise.settings import UserError
from poolwise.stages.sentiment import Sentiment
from poolwise.stages.sweep import KILLED, NOT_STARTED, STOPPED, Sweep

PROBE = ["stage=sentiment", "encoder=base", "protocol=probe", *SMALL_STAGE2[:-1], "logger=csv", "-m"]
TRAINED = ["stage=sentiment", "encoder=base", *SMALL_STAGE2, "logger=csv", "-m"]


def runs_in(folder: Path) -> dict[int, dict]:
    """The records of stage 2 by seed."""
    found = [json.loads(file.read_text()) for file in folder.glob("runs/sentiment/*/record.json")]
    return {record["seed"]: record for record in found}


@pytest.fixture(autouse=True)
def hydra_is_left_clean():
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def failing(monkeypatch):
    """Errors by the seed of the run whose training is to raise them; may be changed meanwhile."""
    errors: dict[int, BaseException] = {}
    start = Sentiment.on_train_start

    def on_train_start(self):
        seed = int(os.environ["PL_GLOBAL_SEED"])
        if seed in errors:
            raise errors[seed]
        start(self)

    monkeypatch.setattr(Sentiment, "on_train_start", on_train_start)
    return errors


@pytest.mark.slow
def test_what_fails_leaves_the_others_running_and_is_told(program, tmp_path, capsys, failing):
    failing |= {1: UserError("a bad value"), 2: RuntimeError("out of luck")}
    assert program(*TRAINED, "seed=1,2,3") == 1
    found = runs_in(tmp_path)
    assert {seed: run["status"] for seed, run in found.items()} == {1: "failed", 2: "failed", 3: "finished"}
    assert found[2]["error"] == "RuntimeError: out of luck"
    printed = capsys.readouterr().out
    told, summary = printed.split("sweep: 1 of 3 jobs finished, 0 of them before, 2 failed")
    assert told.index("failed: RuntimeError: out of luck") < told.index("job 3 of 3")
    assert "failed: UserError: a bad value" in summary
    assert "failed: RuntimeError: out of luck" in summary

    started = {seed: run["started"] for seed, run in found.items()}
    failing.clear()
    assert program(*TRAINED, "seed=1,2,3", "retry_failed=false") == 1
    assert {seed: run["started"] for seed, run in runs_in(tmp_path).items()} == started
    printed = capsys.readouterr().out
    assert "sweep: 1 of 3 jobs finished, 1 of them before, 2 failed" in printed
    assert "failed before (RuntimeError: out of luck); retry_failed=true runs it anew" in printed

    assert program(*TRAINED, "seed=1,2,3") == 0
    found = runs_in(tmp_path)
    assert {run["status"] for run in found.values()} == {"finished"}
    assert found[3]["started"] == started[3]
    assert "sweep: 3 of 3 jobs finished, 1 of them before\n" in capsys.readouterr().out


def test_a_run_that_keeps_no_model_has_its_record_and_predictions(program, tmp_path):
    assert program(*TRAINED, "seed=1", "keep_model=false") == 0
    (folder,) = (tmp_path / "runs/sentiment").iterdir()
    assert {"record.json", "predictions.parquet"} <= {file.name for file in folder.iterdir()}
    assert not list(folder.rglob("*.safetensors")) + list(folder.rglob("*.ckpt"))


def test_the_first_failure_ends_the_sweep_if_asked_for(program, tmp_path, capsys, failing):
    failing[1] = RuntimeError("out of luck")
    assert program(*TRAINED, "seed=1,2", "stop_on_failure=true") == 1
    assert list(runs_in(tmp_path)) == [1]
    assert "not started" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_person_or_the_system_stops_the_whole_sweep(program, tmp_path, monkeypatch, number, code):
    monkeypatch.setattr(Sentiment, "on_train_epoch_end", lambda self: os.kill(os.getpid(), number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    assert program(*TRAINED, "seed=1,2") == code
    signal.signal(signal.SIGINT, before)
    assert {seed: run["status"] for seed, run in runs_in(tmp_path).items()} == {1: "interrupted"}


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_come_back_to(program, tmp_path, capsys):
    """The other process is a thread here: a lock belongs to whoever opened the file."""
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    folder, second = (
        app.planned(app.composed([*PROBE[:-1], *places, seed]), []).folder for seed in ("seed=1", "seed=2")
    )
    taken = threading.Event()

    def other() -> None:
        with claimed(folder, tmp_path / "runs", wait=True):
            taken.set()
            while not (second / "predictions.parquet").exists():
                time.sleep(0.05)

    holder = threading.Thread(target=other)
    holder.start()
    taken.wait()
    assert program(*PROBE, "seed=1,2") == 0
    holder.join()
    printed = capsys.readouterr().out
    assert f"is being done by process {os.getpid()}" in printed
    assert "goes on with the next job, and comes back to it" in printed
    assert json.loads((folder / "record.json").read_text())["status"] == "finished"


def test_a_lock_is_held_once_and_that_of_a_dead_process_is_taken_over(tmp_path):
    folder = tmp_path / "runs/mlm/a"
    code = (
        "import sys, pathlib; from poolwise.runs import claimed; folder = pathlib.Path(sys.argv[1])\n"
        "with claimed(folder, folder.parent, wait=False): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(HeldElsewhereError, match=f"a is being done by process {holder.pid} on "),
            claimed(folder, tmp_path, wait=False),
        ):
            pass
        holder.kill()
        holder.wait()
    with claimed(folder, tmp_path, wait=False):
        assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_link_out_of_the_output_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "precious").write_text("x")
    folder = tmp_path / "runs/mlm/a"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link that leads out of"), claimed(folder, tmp_path / "runs", wait=False):
        pass
    folder.unlink()
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"metrics\.jsonl is a link"), claimed(folder, tmp_path / "runs", wait=False):
        pass
    assert (tmp_path / "precious").read_text() == "x"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["mlm", "sentiment"])
def test_two_sweeps_at_once_do_each_job_once(tmp_path, stage):
    """They also make the same tokens, and in stage 1 the same exports."""
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    own = TRAINED if stage == "sentiment" else ["stage=mlm", *SMALL_STAGE1, "logger=csv", "-m"]
    command = [sys.executable, REPOSITORY / "train.py", *own, *places, "seed=1,2,3"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [each.communicate()[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert sum(words.count("finished in ") for words in printed) == 3
    assert sum(words.count("sweep: 3 of 3 jobs finished") for words in printed) == 2
    records = [json.loads(file.read_text()) for file in tmp_path.glob(f"runs/{stage}/*/record.json")]
    assert [record["status"] for record in records] == ["finished"] * 3
    assert list(tmp_path.rglob("*draft*")) == []


SBATCH = """#!/bin/bash
# A queue with one place: the tasks of an array one after the other, and a line for sacct as each ends.
queue=$(dirname "$0")
cp "$1" "$queue/$$.sh"
echo "Submitted batch job $$"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for task in $(seq 0 "$last"); do
    export SLURM_JOB_ID=$(($$ + task + 1)) SLURM_ARRAY_JOB_ID=$$ SLURM_ARRAY_TASK_ID=$task
    bash "$queue/$$.sh" && state=COMPLETED || state=FAILED
    echo "$$_$task|$state|localhost" >> "$queue/ended"
done > /dev/null 2>&1 &
"""
SRUN = """#!/bin/bash
# A step of one task, with its variables; what it prints goes where it is told.
placed() {
    local file=${1//%A/$SLURM_ARRAY_JOB_ID}
    file=${file//%a/$SLURM_ARRAY_TASK_ID}
    mkdir -p "$(dirname "$file")"
    echo "${file//%t/0}"
}
while [[ $1 == --* ]]; do
    case $1 in
        --output) exec >> "$(placed "$2")"; shift ;;
        --error) exec 2>> "$(placed "$2")"; shift ;;
    esac
    shift
done
export SLURM_STEP_ID=0 SLURM_NTASKS=1 SLURM_NTASKS_PER_NODE=1 SLURM_NNODES=1
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
exec "$@"
"""
SACCT = """#!/bin/bash
echo 'JobID|State|NodeList'
cat "$(dirname "$0")/ended" 2> /dev/null
exit 0
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins for SLURM's programs on the path: there is no SLURM here."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "submitit_slurm": ["hydra/launcher=submitit_slurm"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_leaves_the_records_of_a_sweep_in_one_process(program, request, tmp_path, capsys, name):
    """And fails as it does: one run that failed before is left alone, and is the reason for exit code 1."""
    launcher = LAUNCHERS[name]
    elsewhere = [f"runs_dir={tmp_path / 'elsewhere'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert program(*TRAINED, "seed=1,2") == 0
    capsys.readouterr()
    if name == "submitit_slurm":
        request.getfixturevalue("slurm")
    assert program(*TRAINED, *launcher, *elsewhere, "seed=1,2") == 0
    assert "sweep: 2 of 2 jobs finished, 0 of them before" in capsys.readouterr().out
    here, there = (
        {file.parent.name: json.loads(file.read_text()) for file in (tmp_path / place).glob("sentiment/*/record.json")}
        for place in ("runs", "elsewhere")
    )
    assert here.keys() == there.keys()
    for name, record in here.items():
        same = ("key", "status", "steps", "tokens", "metrics", "predictions_sha256", "condition", "seed")
        speed = "train/tokens_per_second"
        assert {part: record[part] for part in same} | {"metrics": {**record["metrics"], speed: 0}} == {
            part: there[name][part] for part in same
        } | {"metrics": {**there[name]["metrics"], speed: 0}}
    name, record = next(iter(there.items()))
    write_record(tmp_path / "elsewhere/sentiment" / name, {**record, "status": "failed", "error": "out of luck"})
    assert program(*TRAINED, *launcher, *elsewhere, "seed=1,2", "retry_failed=false") == 1
    summary = capsys.readouterr().out.split("sweep: 1 of 2 jobs finished, 1 of them before, 1 failed")[1]
    assert "failed: out of luck" in summary


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (None, NOT_STARTED),
        ({"status": "running"}, KILLED),
        ({"status": "interrupted"}, STOPPED),
        ({"status": "failed", "error": "out of luck"}, "out of luck"),
    ],
    ids=["no record", "running", "interrupted", "failed"],
)
def test_what_came_of_a_job_of_a_launcher_is_told_by_its_record(tmp_path, record, told):
    overrides = [*PROBE[:-1], f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "seed=1"]
    job = app.planned(app.composed(overrides), [])
    if record is not None:
        job.folder.mkdir(parents=True)
        write_record(job.folder, {"key": job.identity.key, **record})
    sweep = Sweep([job], overrides, stop_on_failure=False, spread=True)
    sweep.collect()
    assert sweep.failures == {job.folder.name: told}


def signal_when_it_can_go_on(folder: Path, number: int) -> None:
    """Signal the process that does a run, once it has written two checkpoints."""
    while not (folder / "resume.former.ckpt").exists():
        time.sleep(0.01)
    os.kill(int((folder / ".lock").read_text().split()[1]), number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [*((name, signal.SIGKILL, KILLED) for name in LAUNCHERS), ("submitit_local", signal.SIGUSR2, STOPPED)],
    ids=[*LAUNCHERS, "submitit_local, out of time"],
)
def test_a_job_of_a_launcher_that_is_killed_is_told_and_gone_on_with(
    program, request, tmp_path, capsys, name, number, reason
):
    """SIGKILL is of a system that lacks memory, SIGUSR2 of submitit when time is up.

    joblib ends the other jobs with a killed one; submitit goes on with them, which SLURM may not have begun by then.
    """
    if name == "submitit_slurm":
        request.getfixturevalue("slurm")
    long = [*TRAINED[:-1], "protocol.epochs=8", "checkpoint_minutes=0"]
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    folder = app.planned(app.composed([*long, *places, "seed=1"]), []).folder
    killer = threading.Thread(target=signal_when_it_can_go_on, args=(folder, number), daemon=True)
    killer.start()
    command = [*long, *LAUNCHERS[name], f"hydra.sweep.dir={tmp_path / 'sweep'}", "seed=1,2", "-m"]
    assert program(*command) == 1
    killer.join(timeout=60)
    assert not killer.is_alive(), "no process of the run was there to signal"
    told = " ".join(capsys.readouterr().out.split("sweep: ")[1].split())
    assert f"{folder.name} failed: {reason}" in told
    if name != "joblib":
        assert told.startswith("1 of 2 jobs finished, 0 of them before, 1 failed")
        assert runs_in(tmp_path)[2]["status"] == "finished"
    assert program(*command) == 0
    assert "sweep: 2 of 2 jobs finished" in capsys.readouterr().out
    found = runs_in(tmp_path)
    assert {seed: run["status"] for seed, run in found.items()} == {1: "finished", 2: "finished"}
    assert len(found[1]["resumed_at_steps"]) == 1


def test_a_launcher_waits_for_the_jobs_after_one_that_was_killed(monkeypatch, capsys):
    """By itself it would end with the first such, while others may not have begun."""

    class Killed(submitit.Job):
        _cancel_at_deletion = False

        def __init__(self) -> None:
            self.waited = 0

        def wait(self) -> None:
            self.waited += 1
            raise UncompletedJobError("Job 7_0 has not produced any output")

    monkeypatch.setattr(submitit.Job, "results", submitit.Job.results)  # put back afterwards
    app.wait_for_all_jobs.__wrapped__()
    jobs = [Killed(), Killed()]
    assert [job.results()[0].return_value for job in jobs] == [None, None]
    assert [job.waited for job in jobs] == [1, 1]
    assert capsys.readouterr().err == "Job 7_0 has not produced any output\n" * 2


def test_a_job_that_finds_itself_on_another_device_says_so_and_does_nothing(tmp_path, monkeypatch, capsys):
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    overrides = [*PROBE[:-1], *places, "seed=1"]
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    monkeypatch.setenv(app.PLANNED_ON, '{"accelerator": "cuda"}')
    app.run_elsewhere(app.composed(overrides), overrides)
    told = capsys.readouterr().err
    assert 'planned for {"accelerator": "cuda"}, and its process has ' in told
    assert "hydra.launcher.gpus_per_node=1 of submitit" in told
    assert runs_in(tmp_path) == {}


def test_a_launcher_cannot_stop_jobs_that_run_already(program, capsys):
    assert program(*TRAINED, "hydra/launcher=joblib", "seed=1,2", "stop_on_failure=true") == 2
    assert "stop_on_failure=true: the jobs of a launcher run at once" in capsys.readouterr().err
