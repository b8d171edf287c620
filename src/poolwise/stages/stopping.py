"""What a run does when somebody, or the system, asks it to stop."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from poolwise import ranks

RESUME_ME = 75
"""The exit code after SIGTERM, SIGUSR1 and SIGUSR2: EX_TEMPFAIL of sysexits.h, "the user is invited to retry"."""
BY_PERSON = 130
"""The exit code after Ctrl-C, which shells give to it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""SLURM sends SIGTERM before it kills a job, and before that a signal of one's choice (`--signal=USR1@120`);
submitit has it send SIGUSR2."""


class Stopped(SystemExit):
    """This process was asked to stop.

    Attributes:
        by: the signal, as a person calls it.
        by_all: whether all processes of a training stop at the same place.
        code: the exit code.
        is_told: whether a run has said what it means for it.
    """

    is_told = False

    def __init__(self, number: int, by_all: bool = False) -> None:
        self.by_all = by_all
        super().__init__(BY_PERSON if number == signal.SIGINT else RESUME_ME)
        self.by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopSignals:
    """While its block runs, a signal to stop raises `Stopped`: at once, or in training when a checkpoint is written.

    Attributes:
        waits: whether there will soon be a checkpoint, so that a signal is only noted; a second Ctrl-C raises at once.
        received: the signal that was noted. Also one that raises at once, as a library may swallow what is raised in a
            callback of its own: training and the end of the block look at it again.
    """

    def __init__(self) -> None:
        self.waits = False
        self.received: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._unraisable_before = sys.unraisablehook

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            # A shell that starts a process in the background has it ignore Ctrl-C.
            self._before = {n: old for n in SIGNALS if (old := signal.getsignal(n)) not in (None, signal.SIG_IGN)}
        for handler in self._before.values():
            if isinstance(around := getattr(handler, "__self__", None), StopSignals):
                around.check()
        self.listen()
        sys.unraisablehook = self._swallowed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._unraisable_before
        if self.received is not None and not isinstance(error, Stopped | KeyboardInterrupt):
            # Swallowed, or made an error of by a library, for which Hydra leaves with 1.
            raise Stopped(self.received) from error

    def _swallowed(self, unraisable: Any) -> None:
        """Say nothing of a `Stopped` that was raised where Python can raise nothing on; it is looked at again."""
        if not isinstance(unraisable.exc_value, Stopped):
            self._unraisable_before(unraisable)

    def check(self) -> None:
        """Raise `Stopped` if a signal was noted."""
        if self.received is not None:
            raise Stopped(self.received)

    def listen(self) -> None:
        """Set the handlers, again where a library has set its own."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker, which inherits the handlers; it ends with this process
        again = number == signal.SIGINT and self.received == signal.SIGINT
        if again and ranks.size() > 1:
            return  # torchrun hands a Ctrl-C on that has reached this process already
        if not self.waits or again:
            self.received = number
            raise Stopped(number)
        if self.received is None and number == signal.SIGINT and ranks.is_first():
            at_once = "; Ctrl-C again stops at once" if ranks.size() == 1 else ""
            print(f"stopping, as soon as a checkpoint is written{at_once}", flush=True)
        self.received = number if self.received is None else self.received
