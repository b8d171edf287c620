"""One training in several processes: ranks 0 to R - 1 run the same program, each on its share of every batch.

torchrun or srun starts them. In a single process every function here returns what it was given, so that training is
the same, bit for bit, as if this module were not there.
"""

import inspect
import logging
import os
import shlex
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from poolwise.command_line import program, program_of_torchrun
from poolwise.settings import UserError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait while one works alone, as it may tokenise a large corpus."""
STEP_PATIENCE = timedelta(minutes=30)
"""How long they wait where all work alike, in a step: torch's own with gloo. One was lost, and said nothing, if it is
longer."""
FIRST_SPEAKS_SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """Which of the processes this is, as its launcher says in the environment.

    Attributes:
        rank: its number among all.
        size: how many there are.
        local_rank: its number on this machine.
        nodes: how many machines there are.
        by: the launcher.
    """

    rank: int
    size: int
    local_rank: int
    nodes: int
    by: str


ALONE = Place(0, 1, 0, 1, "")
_joined: Place = ALONE
_sharing_cores = 1
"""What `sharing_cores` gives; found when they join."""
_patient: "ProcessGroup | None" = None
"""All processes, where they wait as long as `PATIENCE`."""


def started() -> Place:
    """What torchrun, or srun in a job step of several tasks, says of this process; `ALONE` where neither started it.

    A batch script of SLURM has variables of its tasks too, but no step, and is one process.
    """

    def number(name: str) -> int:
        return int(os.environ[name])

    if "TORCHELASTIC_RUN_ID" in os.environ:
        size = number("WORLD_SIZE")
        return Place(number("RANK"), size, number("LOCAL_RANK"), size // number("LOCAL_WORLD_SIZE"), "torchrun")
    if {"SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID"} <= os.environ.keys():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return Place(number("SLURM_PROCID"), number("SLURM_NTASKS"), number("SLURM_LOCALID"), nodes, "srun")
    return ALONE


def join(accelerator: str) -> None:
    """Meet the other processes; nothing where that is done. All but process 0 are silent from then on.

    Tensors on the CPU go by gloo, those on a GPU by nccl; what else they tell each other goes by gloo.

    Raises:
        UserError: no launcher started this process, or it started unlike numbers of processes on its machines.
    """
    global _joined, _patient, _sharing_cores
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    place = started()
    if place is ALONE:
        raise UserError(
            "trainer=ddp: trains in the processes that torchrun or srun started, and this one was started alone; write "
            f"torchrun --nproc-per-node 2 {shlex.join(program_of_torchrun())} ... or, in a job of SLURM, "
            f"srun --kill-on-bad-exit=1 {shlex.join(program())} ..."
        )
    if place.size % place.nodes:
        raise UserError(f"trainer=ddp: {place.size} processes on {place.nodes} machines; each needs as many")
    try:
        environment = cluster_environment(place)
    except RuntimeError as error:  # of variables of SLURM that Lightning does not take
        raise UserError(f"trainer=ddp: {error}") from error
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu and place.local_rank < torch.cuda.device_count():  # too few are told by Lightning
        torch.cuda.set_device(place.local_rank)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", rank=place.rank, world_size=place.size, timeout=STEP_PATIENCE
    )
    _patient = distributed.new_group(backend="gloo", timeout=PATIENCE)
    _joined = place
    _sharing_cores = _found_sharing()
    if place.rank:
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


def cluster_environment(place: Place) -> "ClusterEnvironment":
    """Lightning's view of the launcher."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    return TorchElasticEnvironment() if place.by == "torchrun" else SLURMEnvironment(auto_requeue=False)


def trainer_arguments() -> dict[str, Any]:
    """Arguments of `lightning.Trainer` for the processes that have joined.

    What a step does not reach keeps no gradient, as in one process; buffers are equal everywhere and not sent.
    """
    from lightning.pytorch.strategies import DDPStrategy
    from torch.nn.parallel import DistributedDataParallel

    own = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in own else "broadcast_buffers"  # before torch 2.13
    options: dict[str, Any] = {"find_unused_parameters": True, buffers: False}
    strategy = DDPStrategy(cluster_environment=cluster_environment(_joined), **options)
    return {"strategy": strategy, "devices": _joined.size // _joined.nodes, "num_nodes": _joined.nodes}


def leave() -> None:
    """Part from the other processes, when all work is done."""
    global _joined, _patient, _sharing_cores
    if _joined is not ALONE:
        from torch import distributed

        distributed.destroy_process_group()
        _joined, _patient, _sharing_cores = ALONE, None, 1


def rank() -> int:
    """The number of this process, 0 to `size()` - 1."""
    return _joined.rank


def size() -> int:
    """How many processes train together."""
    return _joined.size


def is_joined() -> bool:
    """Whether `join` was called, by one process that is all there is, too."""
    return _joined is not ALONE


def sharing_cores() -> int:
    """How many of the processes, with this one, may use a core of this one's: launchers can give each its own."""
    return _sharing_cores


def _found_sharing() -> int:
    own = socket.gethostname(), os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    return sum(host == own[0] and bool(cores & own[1]) for host, cores in of_each(own))


def is_first() -> bool:
    """Whether this is process 0, which alone writes files and speaks."""
    return _joined.rank == 0


def let_first_speak() -> None:
    """Wait before telling a mistake: where process 0 finds it too, its end ends this process, and it is told once."""
    if started().rank:
        time.sleep(FIRST_SPEAKS_SECONDS)


def wait() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        from torch import distributed

        distributed.barrier(_patient)


@contextmanager
def first_alone() -> Iterator[None]:
    """A block that process 0 does first, and the others after it: what it keeps on disk they find there."""
    if not is_first():
        wait()
    try:
        yield
    finally:
        if is_first():
            wait()


def first_decides(decide: Callable[[], T]) -> T:
    """What process 0 finds, in all of them; a mistake that it raises is raised in all of them."""
    if size() == 1:
        return decide()
    from torch import distributed

    found: list[Any] = [None, None]
    error: Exception | None = None
    if is_first():
        try:
            found[0] = decide()
        except Exception as raised:
            error = raised
            found[1] = (type(raised), raised.args)
    distributed.broadcast_object_list(found, src=0, group=_patient)
    if found[1] is not None:
        kind, arguments = found[1]
        raise error or kind(*arguments)
    return cast(T, found[0])


def of_each(found: T) -> list[T]:
    """What each process found, by rank."""
    if size() == 1:
        return [found]
    from torch import distributed

    every: list[Any] = [None] * size()
    distributed.all_gather_object(every, found, _patient)
    return every


def totals(counts: Mapping[str, Any]) -> dict[str, float]:
    """Sums over all processes, by name; by the CPU, so that nothing waits for a GPU."""
    return _reduced(counts, "SUM")


def greatest(counts: Mapping[str, Any]) -> dict[str, float]:
    """The greatest of all processes, by name."""
    return _reduced(counts, "MAX")


def _reduced(counts: Mapping[str, Any], operation: str) -> dict[str, float]:
    numbers = [float(count) for count in counts.values()]
    if size() > 1:
        import torch
        from torch import distributed

        together = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(together, getattr(distributed.ReduceOp, operation))
        numbers = together.tolist()
    return dict(zip(counts, numbers, strict=True))


def mean(value: "Tensor") -> "Tensor":
    """The mean over all processes of a tensor of one shape, without its gradient."""
    if size() == 1:
        return value
    from torch import distributed

    summed = value.detach().clone()
    distributed.all_reduce(summed)
    return summed / size()


def gathered(rows: "Tensor") -> "Tensor":
    """The rows (n, ...) of all processes, one process after the other, each with a number n of its own.

    A gradient of what is gathered goes back to the process that a row came from, summed over all of them.
    """
    if size() == 1:
        return rows
    from poolwise.gathering import Gathering

    counts = totals({str(number): len(rows) if number == rank() else 0 for number in range(size())})
    gather: Any = Gathering.apply
    return cast("Tensor", gather(rows, [int(count) for count in counts.values()], rank()))
