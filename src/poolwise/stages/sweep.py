"""The jobs of one command, one after the other in one process: one that fails leaves the others running."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from poolwise import ranks
from poolwise.runs import RECORD_FILE, HeldElsewhereError, held_by, read_record
from poolwise.stages.loop import FailedBeforeError, Job, announce, run, summarise, to_do
from poolwise.stages.screen import show
from poolwise.words import first_line, kind_and_words

KILLED = "its process ended without a word, as one does that is killed; the same command goes on with it"
STOPPED = "stopped before its end, out of time or by a signal; the same command goes on with it"
NOT_STARTED = "not started; why is said above, or in what the launcher keeps of its jobs"
LEFT = {"running": KILLED, "interrupted": STOPPED}
"""What came of a job that a launcher's process began and did not end, by the status in its record."""


@dataclass
class Sweep:
    """What a sweep does, and what came of it.

    Attributes:
        jobs: each once.
        overrides: the command line that asked for them.
        stop_on_failure: whether the first job that fails ends the sweep.
        spread: whether a launcher has the jobs done by other processes.
        to_do: how many jobs were not finished when it began.
        failures: why jobs failed, by the name of the run's folder.
        put_off: jobs that another process held when it was their turn.
    """

    jobs: Sequence[Job]
    overrides: Sequence[str]
    stop_on_failure: bool
    spread: bool = False
    to_do: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    put_off: list[Job] = field(default_factory=list)

    def begin(self) -> None:
        """Say what is about to be done.

        Raises:
            UserError: the disk has no room for it.
        """
        announce(self.jobs)
        self.to_do = len(to_do(self.jobs))

    def do(self, job: Job, wait: bool = False) -> None:
        """Do a job and note how it failed, if it does; put it off if another process does it, unless told to `wait`.

        Raises:
            SystemExit: the person or the system stopped it, or it failed, and `stop_on_failure` is set or several
                processes train, which may have failed at different places.
        """
        try:
            run(job, self.jobs, wait)
        except HeldElsewhereError as held:
            show(f"{held}; this sweep goes on with the next job, and comes back to it", {})
            self.put_off.append(job)
        except FailedBeforeError as error:
            self.note(job, error)
        except Exception as error:
            self.note(job, error)
            if not ranks.is_first():
                ranks.let_first_speak()
                print(f"process {ranks.rank()}: {self.failures[job.folder.name]}", file=sys.stderr, flush=True)
            if self.stop_on_failure or ranks.size() > 1:
                raise SystemExit(1) from None

    def note(self, job: Job, error: Exception) -> None:
        """Say at once that a job failed, and keep the reason for the end.

        The error itself is not kept: by its traceback it would hold the job's model in memory.
        """
        reason = first_line(error) if isinstance(error, FailedBeforeError) else kind_and_words(error)
        self.failures[job.folder.name] = reason
        record = job.folder / RECORD_FILE
        show(f"{job.identity.name} failed: {reason}", {}, {"record": str(record)} if record.exists() else {})

    def carry_out(self) -> None:
        """Do all jobs, unless a launcher has had them done, and see to the rest."""
        for job in () if self.spread else self.jobs:
            self.do(job)
        self.collect()
        self.catch_up()

    def collect(self) -> None:
        """Note how jobs failed that a launcher had done elsewhere, by their records, and which were put off."""
        for job in to_do(self.jobs) if self.spread else ():
            record = read_record(job.folder) or {}
            if held_by(job.folder):
                self.put_off.append(job)
            elif record.get("status") == "failed":
                self.failures[job.folder.name] = str(record.get("error"))
            else:
                self.failures[job.folder.name] = LEFT.get(str(record.get("status")), NOT_STARTED)

    def catch_up(self) -> None:
        """Do the jobs that were put off, when the process that holds them lets go; most are finished by then."""
        for job in self.put_off:
            self.do(job, wait=True)

    def conclude(self) -> None:
        """Say how it ended."""
        next_steps = self.jobs[0].next_steps_of(self.jobs, self.overrides)
        summarise(self.jobs, next_steps, len(self.jobs) - self.to_do, self.failures)
