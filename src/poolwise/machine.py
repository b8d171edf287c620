"""What a training process asks of the machine. torch is not loaded before it is needed."""

import ctypes
import gc
import hashlib
import logging
import math
import os
import platform
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from poolwise import ranks
from poolwise.durable import draft_beside
from poolwise.settings import UserError
from poolwise.words import size

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's `mallopt`: from how many free bytes on the end of the heap is given back (-1: never), and how many blocks
may be mapped apart from it. A threshold for these above 32 MiB is refused by older glibcs."""
MALLOC_VARIABLES = {f"MALLOC_{name}_" for name in ("TRIM_THRESHOLD", "MMAP_MAX", "MMAP_THRESHOLD", "TOP_PAD")}
"""By which a person sets that, beside `GLIBC_TUNABLES`."""

SPINS = "5000"
"""How often a thread of GNU OpenMP looks for work before it sleeps, on a machine that has nothing else to do.

Tokens per second of a fine-tuned BERT of two layers of 128, on two idle cores: 23,100 where threads sleep at once,
26,300 with 1,000, 31,300 with 5,000 and 32,000 with 20,000. Beside another program on one of the cores: 19,000, 17,200,
14,300 and 9,700; with torch's own 300,000 a factor of 9 was lost."""
LOOKS = 5
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
"""Variables that say what threads of OpenMP do while they wait."""
chosen_here: dict[str, str] = {}
"""Of these, what `prepare` has chosen for this process."""


def prepare() -> None:
    """Settings of threads and memory for training on a CPU, which change no number.

    Threads of OpenMP sleep while they wait where other programs want the cores, else they look for work for a moment
    before (`SPINS`). glibc keeps blocks of memory in place of giving them back to the system at each step, which it may
    or may not do by itself: worth 1.2 to 1.7 times, or nothing (experiments/throughput).
    """
    if not WAITING & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE"} if others_run() else {"GOMP_SPINCOUNT": SPINS}
        chosen_here.clear()
        chosen_here.update({name: os.environ[name] for name in WAITING & os.environ.keys()})
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if ranks.started().size > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each would tell that a step reached all parameters
    keeps_memory()


def let_others_choose() -> None:
    """Take back what `prepare` chose of waiting threads, for processes that a launcher starts, maybe many at once and
    elsewhere: each looks for itself whether others want the cores."""
    for name in chosen_here:
        os.environ.pop(name, None)


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: libraries are none, and looking takes a sixth of the time of their imports."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@cache
def keeps_memory() -> bool:
    """Have glibc keep blocks of memory in place of giving them back; whether it does, and there is a glibc.

    A person's own settings of that stay, by glibc's variables.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    is_set = MALLOC_VARIABLES & os.environ.keys() or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    if is_set or not hasattr(libc, "mallopt"):
        return False
    assert libc is not None
    return all([libc.mallopt(M_MMAP_MAX, 0), libc.mallopt(M_TRIM_THRESHOLD, -1)])


def choices(trainer: Mapping[str, Any], device: str, precision: str) -> dict[str, Any]:
    """What was chosen for speed on this machine, for the record.

    Args:
        trainer: the settings of Lightning's trainer, as typed.
        device: `cpu`, `cuda` or another kind.
        precision: that of training.

    Returns:
        `precision`, and `bf16_gain` where that was measured for it; `threads`; `waiting_threads`, the setting of
        OpenMP that says what threads do; and `keeps_memory`.
    """
    import torch

    waiting = {name: os.environ[name] for name in sorted(WAITING, reverse=True) if name in os.environ} or dict(
        chosen_here
    )
    gain = bf16_gain("cuda" if device == "cuda" else "cpu") if trainer.get("precision") == "auto" else None
    return {
        "precision": precision,
        **({} if gain is None else {"bf16_gain": round(gain, 2)}),
        "threads": torch.get_num_threads(),
        "waiting_threads": waiting,
        "keeps_memory": keeps_memory(),
    }


CPU_QUOTAS = {
    ("", "/sys/fs/cgroup"): ("cpu.max",),
    ("cpu", "/sys/fs/cgroup/cpu"): ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
}
"""Where Linux says how much time of cores a control group may take in each period, below the group's own path: in
version 2, whose controllers have no name, and in 1."""


def cores_allowed() -> float:
    """How many cores' time this process may take by the quotas of its control groups, as a container's or a batch
    system's; infinite where there is none."""
    allowed = [math.inf]
    for (controller, folder), files in CPU_QUOTAS.items():
        for group in control_groups(controller):
            with suppress(OSError, ValueError):  # `max` is no number
                texts = (Path(f"{folder}{group}/{file}").read_text(encoding="ascii") for file in files)
                quota, period = map(int, " ".join(texts).split())
                allowed += [quota / period] if quota > 0 else []
    return min(allowed)


def control_groups(controller: str) -> set[str]:
    """The groups of a controller that this process is in, each within the next; the root, which a container sees as its
    own, is the empty path."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.split(":", 2) for line in lines]
    own = [PurePosixPath(path) for _, controllers, path in told if controller in controllers.split(",")]
    return {""} | {str(group).rstrip("/") for path in own for group in (path, *path.parents)}


def others_run() -> bool:
    """Whether other programs want a quarter of the cores now, by Linux's count of threads that run; elsewhere taken to
    be so. Measured on two cores only."""
    running = []
    for _ in range(LOOKS):
        try:
            running.append(int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].split("/")[0]))
        except (OSError, ValueError, IndexError):
            return True
        time.sleep(0.004)
    return sum(running) > (1 + len(os.sched_getaffinity(0)) / 4) * LOOKS  # this one is counted


ONE_THREAD_BELOW = 3e9
"""Floating-point operations of a step, with whole layers. Those of a smaller one are too short to wake a second
thread for. Measured on two cores only.

Tokens per second on one and on two of two idle cores, by these operations in thousand millions: 0.3: 51,200 and 26,600;
0.8: 36,600 and 19,900; 1.0: 13,900 and 10,900 (fewer, larger layers) or 69,100 and 64,400; 4.2: 22,600 and 24,700, and
8,800 and 12,800 where the MLM head comes to it."""


def fit_threads(work: float, workers: int) -> None:
    """Compute small steps with one thread and larger ones with all, unless `OMP_NUM_THREADS` says otherwise.

    Several processes that may use the same cores share their threads, and each leaves one to each of its loader's
    workers.

    Args:
        work: floating-point operations of a training step.
        workers: loader processes.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        own = _threads_at_first() // ranks.sharing_cores() - workers
        threads = 1 if work < ONE_THREAD_BELOW else max(own, 1)
        torch.set_num_threads(threads)
        if ranks.is_joined():
            os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning chooses


def keep_to_quota() -> None:
    """Compute with no more threads than a container's quota has cores, unless `OMP_NUM_THREADS` says otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_threads_at_first())


@cache
def _threads_at_first() -> int:
    """torch's own choice, which knows the cores that this process may use, and no more than a container's quota."""
    import torch

    return max(int(min(torch.get_num_threads(), cores_allowed())), 1)


OPERATIONS_A_SECOND = 2.2e14
"""Of bert-base on an H200 without compiling."""
COMPILING_SECONDS, COMPILED_GAIN = 14.0, 1.27
"""How long compiling takes there, and how many times as fast its steps are then."""


def has_compiler() -> bool:
    """Whether there is a C compiler, which torch's own calls: without one compiling would fail, and is not tried."""
    named = os.environ.get("CC", "").split()[:1]
    return any(shutil.which(name) for name in named or ("gcc", "clang"))


def compiling_pays(work: float) -> bool:
    """Whether a GPU trains faster with compiled layers, for so many floating-point operations in all.

    Measured on one GPU only; on a slower one it pays sooner, as compiling is the CPU's work.
    """
    return has_compiler() and work / OPERATIONS_A_SECOND * (1 - 1 / COMPILED_GAIN) > COMPILING_SECONDS


BF16_PAYS_FROM = 1.5
"""How many times faster than in fp32 a matrix product must be in bf16 to make up for the casts around it.

Seen: 4.6 (AMD, AVX-512 with bf16) and 0.55 (Intel, with the same flag, which is why the machine is timed)."""
MEASUREMENTS = 3
TRIES, LEAST_TRIES, MOST_SECONDS = 20, 3, 4.0
PAUSE = 0.1
"""Seconds between two tries: another program's moment would decide 0.1 s of them, and one machine had 1.4 to 4.4."""
TELLS_PROCESSORS_APART = ("model name", "flags", "Features", "CPU implementer", "CPU part")
"""In Linux's account of a core, on x86 and on ARM, which has no name there."""


def trainer_arguments(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of Lightning's trainer with `precision=auto` settled by what this machine multiplies fast.

    With `strategy=ddp` they are for the processes that have joined (see `ranks`).
    """
    if trainer.get("strategy") == "ddp":
        trainer = {**trainer, **ranks.trainer_arguments()}
    if trainer.get("precision") != "auto":
        return dict(trainer)
    import torch

    on_gpu = trainer.get("accelerator") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    gain = bf16_gain("cuda" if on_gpu else "cpu")
    return {**trainer, "precision": "bf16-mixed" if gain >= BF16_PAYS_FROM else "32-true"}


@cache
def bf16_gain(device: str) -> float:
    """How many times faster a matrix product in bf16 is than in fp32, as once measured on such a device, and kept.

    Precision is part of a run's key, and another answer would make its next start another run: one and the same
    machine had 4.4 in a quiet moment and 1.4 beside others.
    """
    return ranks.first_decides(lambda: _kept_gain(device))


def gain_file(device: str) -> Path:
    """Where the answer is kept: a file for each kind of processor, or GPU, and version of torch. Without it, it is
    measured again."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    key = hashlib.sha256(f"{name} {torch.__version__}".encode()).hexdigest()[:12]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "poolwise" / f"bf16_gain-{key}"


def processor() -> str:
    """What the system tells of the first core that says what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)  # of several cores the first
    return " ".join(text for name, text in told.items() if name.strip() in TELLS_PROCESSORS_APART)


def _kept_gain(device: str) -> float:
    try:
        file = gain_file(device)
    except RuntimeError:  # a user without a home
        return gain_at_rest(device)
    kept = _read_gain(file)
    if kept is not None:
        return kept
    gain = gain_at_rest(device)
    with suppress(OSError):  # nowhere to keep it: asked again
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = draft_beside(file)
        try:
            draft.write_text(f"{gain}\n", encoding="ascii")
            with suppress(FileExistsError):
                os.link(draft, file)  # unless another process was first, whose answer then holds for both
        finally:
            draft.unlink(missing_ok=True)
    return _read_gain(file) or gain


def gain_at_rest(device: str) -> float:
    """The greatest of `MEASUREMENTS`, of which the first that is enough, or below 1, is the last: a machine that mostly
    has 3 had 1.41 and 1.497 in a neighbour's moments. With the threads that training may have."""
    log.info("measuring once how fast this machine multiplies in bf16, for trainer.precision=auto")
    keep_to_quota()
    gains: list[float] = []
    while len(gains) < MEASUREMENTS and all(1 <= gain < BF16_PAYS_FROM for gain in gains):
        gains.append(round(measured_gain(device), 3))
    return max(gains)


def _read_gain(file: Path) -> float | None:
    """None where there is none, or one that is damaged, which is removed."""
    try:
        gain = float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        gain = 0.0
    if 0 < gain < math.inf:
        return gain
    with suppress(OSError):
        file.unlink(missing_ok=True)
    return None


def measured_gain(device: str) -> float:
    """How many times faster a matrix product in bf16 is than in fp32 there, now."""
    import torch

    size = 4096 if device == "cuda" else 768
    matrices = {dtype: torch.ones(size, size, dtype=dtype, device=device) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(matrices, float("inf"))
    began = time.perf_counter()
    for tried in range(TRIES):  # in turns, so that what else the machine does falls on both
        if tried >= LEAST_TRIES and time.perf_counter() - began > MOST_SECONDS:
            break  # bf16 without instructions of its own can take a second a product
        for dtype, matrix in matrices.items():
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
        time.sleep(PAUSE if tried < TRIES - 1 else 0)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had: torch's error on a GPU, its text on a CPU, or Python's and numpy's own."""
    import torch

    words = ("can't allocate memory", "Cannot allocate memory", "not enough memory")
    of_a_cpu = isinstance(error, RuntimeError) and any(each in str(error) for each in words)
    return of_a_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def check_writable(folder: Path) -> None:
    """Raise a UserError unless files can be made in `folder`, or where it would be made; leaves nothing behind."""
    place = existing_part(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror} (in {place})") from error


def check_room(folder: Path, needed: int) -> None:
    """Raise a UserError unless the disk of `folder` has `needed` bytes free."""
    free = shutil.disk_usage(existing_part(folder)).free
    if free < needed:
        raise UserError(
            f"the disk of {folder} has {size(free)} free, and what is kept of this needs {size(needed)}; "
            "make room, or name another disk with runs_dir="
        )


def is_plain_name(name: object) -> bool:
    """Whether a name in somebody's file is that of a file beside it, and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def existing_part(folder: Path) -> Path:
    """The innermost part of a path that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


ANSWER_SECONDS = 5
"""How long a service on the network may take to answer before work goes on without it."""


@cache
def answers(url: str) -> bool:
    """Whether a web server answers at `url` within `ANSWER_SECONDS`; asked once a process."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):
            return True
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return True
    except (OSError, ValueError):
        return False


def stay_offline_without_hub() -> None:
    """Where the Hugging Face hub does not answer, have its libraries look on this disk only.

    They would ask it again and again for half a minute. Their switch is read from the environment when they are
    imported, and is a constant of theirs after that.
    """
    import datasets
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
