import gc
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from unittest.mock import Mock

import datasets
import pytest
import torch
from huggingface_hub import constants

from poolwise import machine, ranks
from poolwise.settings import UserError

MEASURED = machine.bf16_gain
"""Before the tests' fixture takes its place."""


def test_prepare_sets_what_is_not_set_already(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setattr(machine, "others_run", lambda: True)
    machine.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "GOMP_SPINCOUNT" not in os.environ
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(machine, "others_run", lambda: False)
    machine.prepare()
    assert "OMP_WAIT_POLICY" not in os.environ
    assert os.environ["GOMP_SPINCOUNT"] == machine.SPINS


def test_what_a_launcher_starts_chooses_for_itself_how_threads_wait(monkeypatch):
    for name in machine.WAITING:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(machine, "chosen_here", {})
    monkeypatch.setattr(machine, "others_run", lambda: False)
    machine.prepare()
    machine.let_others_choose()
    assert not machine.WAITING & os.environ.keys()
    assert machine.choices({}, "cpu", "32-true")["waiting_threads"] == {"GOMP_SPINCOUNT": machine.SPINS}
    monkeypatch.setattr(machine, "chosen_here", {})
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # a person's own
    machine.prepare()
    machine.let_others_choose()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="of /proc")
def test_other_programs_that_run_are_seen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        assert machine.others_run()
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.parametrize(("cores", "running", "others"), [(2, 1, False), (2, 2, True), (64, 9, False), (64, 20, True)])
def test_other_programs_count_that_want_a_quarter_of_the_cores(monkeypatch, tmp_path, cores, running, others):
    (tmp_path / "loadavg").write_text(f"0.00 0.01 0.05 {running}/99 12345\n", encoding="ascii")
    monkeypatch.setattr(machine, "Path", lambda place: tmp_path / "loadavg")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert machine.others_run() == others


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_memory_that_was_freed_is_not_fetched_anew():
    """Pages that the kernel must hand out when a block of 256 MiB is made a second time."""
    script = """
import resource, sys
import numpy as np
from poolwise import machine
if sys.argv[1] == "kept":
    machine.prepare()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    pages = {}
    for how in ("kept", "given back"):
        found = subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True)
        pages[how] = int(found.stdout)
    assert pages["kept"] < 100 < pages["given back"]


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=9")]
)
def test_a_persons_own_settings_of_memory_stay(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not machine.keeps_memory.__wrapped__()


@pytest.mark.parametrize(
    ("files", "cores", "threads"),
    [
        ({}, math.inf, 64),
        ({"cpu.max": "max 100000\n"}, math.inf, 64),
        ({"cpu.max": "250000 100000\n"}, 2.5, 2),
        ({"cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, math.inf, 64),
        ({"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}, 1.5, 1),
    ],
)
def test_a_containers_quota_bounds_threads(monkeypatch, tmp_path, files, cores, threads):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(machine, "Path", lambda place: tmp_path / place.rpartition("/")[2])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert machine.cores_allowed() == cores
    assert machine._threads_at_first.__wrapped__() == threads


@pytest.mark.parametrize(
    ("groups", "quotas", "cores"),
    [
        ("0::/job/step\n", {"": 8, "/job": 3, "/job/step": None}, 3),
        ("0::/job/step\n", {"/job": 3, "/job/step": 2}, 2),
        ("0::/job\n", {"/another": 1}, math.inf),
        ("0::/\n", {"": 4}, 4),
        ("5:memory:/other\n4:cpu,cpuacct:/job/step\n", {"/other": 1, "/job/step": 6}, 6),
        ("4:cpu,cpuacct:/job/step\n0::/unified\n", {"/job": 5, "/job/step": None, "/unified": 1}, 5),
    ],
)
def test_the_quotas_of_all_groups_around_a_process_count(monkeypatch, tmp_path, groups, quotas, cores):
    first = ":cpu" in groups
    for group, count in quotas.items():
        folder = tmp_path / f"sys/fs/cgroup{'/cpu' * first}{group}"
        folder.mkdir(parents=True, exist_ok=True)
        told = "-1" if count is None and first else "max" if count is None else str(100_000 * count)
        files = {"cpu.cfs_quota_us": told, "cpu.cfs_period_us": "100000"} if first else {"cpu.max": f"{told} 100000"}
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n", encoding="ascii")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups, encoding="utf-8")
    monkeypatch.setattr(machine, "Path", lambda place: tmp_path / place.lstrip("/"))
    assert machine.cores_allowed() == cores


def test_cores_are_shared_by_processes_that_may_use_the_same_ones(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    own = (socket.gethostname(), {0, 1})
    others = [(own[0], {max(own[1]) + 1}), ("another", own[1]), (own[0], {*own[1], 999})]
    monkeypatch.setattr(ranks, "of_each", lambda found: [found, *others])
    assert ranks._found_sharing() == 2
    assert ranks.sharing_cores() == 1


def test_garbage_is_looked_for_again_after_imports():
    @machine.uncollected()
    def import_what_finds_a_mistake():
        assert not gc.isenabled()
        raise UserError("a mistake")

    with pytest.raises(UserError):
        import_what_finds_a_mistake()
    assert gc.isenabled()


def test_small_models_get_one_thread_and_larger_ones_all(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "_threads_at_first", lambda: 3)
    counts = []
    for work, workers in ((2.9e9, 0), (3e9, 0), (3e9, 1), (3e9, 4)):
        machine.fit_threads(work, workers)
        counts.append(torch.get_num_threads())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine.fit_threads(1e9, 0)
    counts.append(torch.get_num_threads())
    torch.set_num_threads(before)
    assert counts == [1, 3, 2, 1, 1]


def test_what_was_chosen_for_speed_is_told(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5000")
    monkeypatch.setattr(machine, "bf16_gain", lambda device: {"cpu": 4.604}[device])
    told = machine.choices({"precision": "auto"}, "cpu", "bf16-mixed")
    assert told == {
        "precision": "bf16-mixed",
        "bf16_gain": 4.6,
        "threads": torch.get_num_threads(),
        "waiting_threads": {"GOMP_SPINCOUNT": "5000"},
        "keeps_memory": machine.keeps_memory(),
    }
    assert "bf16_gain" not in machine.choices({"precision": "32-true"}, "cpu", "32-true")


def test_it_comes_before_torch():
    script = "import sys; import poolwise.app, poolwise.machine; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    machine.check_writable(tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/runs cannot be written: Not a directory"):
        machine.check_writable(tmp_path / "file/runs")


def test_room_is_that_of_the_disk_where_the_folder_will_be(tmp_path, monkeypatch):
    asked = []

    def usage(path):
        asked.append(path)
        return shutil._ntuple_diskusage(10**9, 0, 5 * 10**6)

    monkeypatch.setattr(machine.shutil, "disk_usage", usage)
    machine.check_room(tmp_path / "a/b", 5 * 10**6)
    with pytest.raises(UserError, match="has 5 MB free, and what is kept of this needs 6 MB"):
        machine.check_room(tmp_path / "a/b", 6 * 10**6)
    assert set(asked) == {tmp_path}


def test_libraries_stay_offline_where_the_hub_does_not_answer(monkeypatch):
    for answer in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(machine, "answers", lambda url, answer=answer: answer)
        machine.stay_offline_without_hub()
        assert constants.HF_HUB_OFFLINE == datasets.config.HF_HUB_OFFLINE == (not answer)


@pytest.mark.parametrize(("gain", "chosen"), [(4.6, "bf16-mixed"), (1.0, "32-true")])
def test_precision_is_what_this_machine_multiplies_fast(monkeypatch, gain, chosen):
    monkeypatch.setattr(machine, "bf16_gain", lambda device: gain)
    given = {"accelerator": "cpu", "precision": "auto", "devices": 1}
    assert machine.trainer_arguments(given) == {**given, "precision": chosen}
    assert machine.trainer_arguments({"precision": "64-true"}) == {"precision": "64-true"}


def test_the_machine_is_asked_once_and_its_answer_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert 0 < machine.measured_gain("cpu") < 50  # 0.009 on a processor that has no bf16 at all
    answers = iter([1.49996, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(machine, "measured_gain", lambda device: next(answers))
    ask = MEASURED.__wrapped__  # as each process does once
    MEASURED.cache_clear()
    assert MEASURED("cpu") == MEASURED("cpu") == ask("cpu") == 1.5
    kept = machine.gain_file("cpu")
    assert list((tmp_path / "poolwise").iterdir()) == [kept]
    for damaged, answer in (("", 2.0), ("nan", 3.0)):
        kept.write_text(damaged, encoding="ascii")
        assert ask("cpu") == ask("cpu") == answer
    with monkeypatch.context() as racing:
        kept.unlink()
        racing.setattr(machine, "measured_gain", lambda device: kept.write_text("1.7\n", encoding="ascii") + 2.0)
        assert ask("cpu") == 1.7  # of the process that was first
    monkeypatch.setattr(machine, "processor", lambda: "another")
    assert machine.gain_file("cpu") != kept
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert ask("cpu") == 4.0  # where nothing can be kept
    monkeypatch.setattr(machine, "gain_file", Mock(side_effect=RuntimeError))
    assert ask("cpu") == 5.0  # without a home
    MEASURED.cache_clear()


def test_processors_are_told_apart_by_what_they_can_do(monkeypatch, tmp_path):
    told = {}
    for features in ("asimd", "asimd bf16"):
        core = f"processor\t: {{}}\nFeatures\t: {features}\nCPU part\t: 0xd40\nBogoMIPS\t: 5{features[-1]}\n"
        (tmp_path / "cpuinfo").write_text(core.format(0) + core.format(1), encoding="utf-8")
        monkeypatch.setattr(machine, "Path", lambda place: tmp_path / place.rpartition("/")[2])
        told[features] = machine.processor()
    assert told == {"asimd": " 0xd40  asimd", "asimd bf16": " 0xd40  asimd bf16"}


@pytest.mark.parametrize(
    ("answers", "gain"),
    [([1.49, 1.2, 1.61], 1.61), ([1.2, 1.3, 1.1], 1.3), ([2.0], 2.0), ([0.55], 0.55), ([1.4, 0.9], 1.4)],
)
def test_a_gain_that_is_not_enough_is_measured_again(monkeypatch, answers, gain):
    waiting = iter(answers)
    monkeypatch.setattr(machine, "measured_gain", lambda device: next(waiting))
    assert machine.gain_at_rest("cpu") == gain
    assert next(waiting, None) is None


@pytest.mark.parametrize("has_home", [True, False])
def test_precisions_are_timed_with_the_threads_of_training(monkeypatch, tmp_path, has_home):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if not has_home:
        monkeypatch.setattr(machine, "gain_file", Mock(side_effect=RuntimeError))
    monkeypatch.setattr(machine, "_threads_at_first", lambda: 3)
    monkeypatch.setattr(machine, "measured_gain", lambda device: float(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        assert machine._kept_gain("cpu") == 3.0
    finally:
        torch.set_num_threads(before)


def test_precisions_are_timed_in_turns(monkeypatch):
    timed = []
    monkeypatch.setattr(torch, "mm", lambda left, right: timed.append(left.dtype))
    monkeypatch.setattr(machine, "PAUSE", 0)
    machine.measured_gain("cpu")
    assert timed == [torch.float32, torch.bfloat16] * machine.TRIES
    monkeypatch.setattr(machine, "MOST_SECONDS", 0)  # as where a product takes a second
    timed.clear()
    machine.measured_gain("cpu")
    assert timed == [torch.float32, torch.bfloat16] * machine.LEAST_TRIES


def test_compiling_pays_from_about_a_minute_of_training_on(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "gcc" else None)
    monkeypatch.setenv("CC", "")
    assert not machine.compiling_pays(60 * machine.OPERATIONS_A_SECOND)
    assert machine.compiling_pays(70 * machine.OPERATIONS_A_SECOND)
    monkeypatch.setenv("CC", "none -O2")
    assert not machine.compiling_pays(70 * machine.OPERATIONS_A_SECOND)
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)  # as in many containers
    assert not machine.compiling_pays(70 * machine.OPERATIONS_A_SECOND)
