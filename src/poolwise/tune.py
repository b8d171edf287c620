"""`python -m poolwise.tune KEY=LOW..HIGH [KEY=VALUE ...]`: search settings of stage 2 with Optuna, by dev alone."""

import argparse
import logging
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from poolwise import machine, ranks
from poolwise.app import COMPOSING_ERRORS, composed, jobs_of, planned, prepared
from poolwise.command_line import override_in, program, stage1_command, stage_of
from poolwise.runs import STUDY, hash_of, read_record
from poolwise.settings import (
    SELECTION_METRIC,
    STAGE_2_SEEDS,
    OutOfMemoryError,
    SentimentSettings,
    UserError,
    leave,
    take_all,
)
from poolwise.words import counted

if TYPE_CHECKING:
    from optuna import Study, Trial

    from poolwise.stages.loop import Job

log = logging.getLogger(__name__)

RANGE = re.compile(r"(?P<key>[^=]+)=(?P<low>[^/]+?)\.\.(?P<high>[^/]+)")
LOGARITHMIC_FROM = 10
"""The ratio of the ends of a range from which on it is searched by the logarithm, as suits learning rates."""
FRESH_SEEDS = 3


@dataclass(frozen=True)
class Range:
    """A setting and the ends of what is tried of it, both included: whole numbers if both ends are."""

    key: str
    low: int | float
    high: int | float

    @classmethod
    def read(cls, key: str, low: str, high: str) -> "Range":
        """The range that is written `key=low..high`, or a UserError that says what is wrong with it."""
        whole = all(re.fullmatch(r"[+-]?\d+", end) for end in (low, high))
        try:
            found = cls(key, *(int(end) if whole else float(end) for end in (low, high)))
        except ValueError:
            found = cls(key, math.nan, math.nan)
        if not -math.inf < found.low < found.high < math.inf:
            raise UserError(
                f"{key}={low}..{high}: must be two numbers, the lower one first, such as 1e-5..1e-3 or 1..4"
            )
        if key.endswith("seed"):
            raise UserError(f"{key}={low}..{high}: a seed is not tuned; {key}=1,2,3 judges a trial by their mean")
        return found

    def suggested(self, trial: "Trial") -> str:
        """What a trial is to try, as typed: of fractions three digits."""
        by_logarithm = self.low > 0 and self.high >= LOGARITHMIC_FROM * self.low
        if isinstance(self.low, int) and isinstance(self.high, int):
            return f"{self.key}={trial.suggest_int(self.key, self.low, self.high, log=by_logarithm)}"
        value = trial.suggest_float(self.key, self.low, self.high, log=by_logarithm)
        return f"{self.key}={min(max(float(f'{value:.3g}'), self.low), self.high)}"


def main() -> None:
    """Search, and print the best settings as a command for fresh seeds."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.tune", description=__doc__)
    parser.add_argument(
        "settings", nargs="+", metavar="KEY=VALUE", help=f"as {program()[-1]} takes them, some as KEY=LOW..HIGH"
    )
    parser.add_argument("--trials", type=int, default=20, help="of the study in all, earlier ones counted (20)")
    given = parser.parse_intermixed_args()
    machine.prepare()
    try:
        tune(given.settings, given.trials)
    except UserError as error:
        leave(error)
    except COMPOSING_ERRORS as error:
        leave(UserError(str(error)))


def tune(words: Sequence[str], trials: int) -> None:
    """Go on with the study of these settings and ranges until it has so many trials.

    What a trial tries depends on its number and on the trials before it alone, so that a study that was stopped goes
    on as if it had not been.

    Raises:
        UserError: Optuna is missing, a range or a setting is wrong, or no trial gave a result.
    """
    if find_spec("optuna") is None:
        raise UserError("poolwise.tune needs Optuna: pip install 'poolwise[tune]'")
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    from poolwise.stages.screen import show

    matches = {word: RANGE.fullmatch(word) for word in words}
    fixed = [word for word in words if not matches[word]]
    ranges = [Range.read(**match.groupdict()) for match in matches.values() if match]
    if not ranges or stage_of(fixed) != "sentiment" or trials < 1:
        raise UserError("needs stage=sentiment, one range or more, such as repr.layer=1..6, and --trials above 0")
    check_one_condition(words, fixed, trials)
    ends = [[f"{each.key}={each.low}" for each in ranges], [f"{each.key}={each.high}" for each in ranges]]
    jobs: list[Job] = []
    take_all(partial(lambda end: jobs.extend(_jobs([*fixed, *end])), end) for end in ends)
    if ranks.size() > 1:
        raise UserError("trainer=ddp: a search trains in one process")
    material = [[job.identity.key for job in jobs], [[each.key, each.low, each.high] for each in ranges]]
    file = jobs[0].settings.runs_dir / "tune" / f"{hash_of(material)[:8]}.jsonl"
    study = _opened(file)
    for number in range(len(study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))), trials):
        study.sampler = TPESampler(seed=number, constant_liar=False)  # one that was stopped counts for nothing
        trial = study.ask()
        chosen = [each.suggested(trial) for each in ranges]
        trial.set_user_attr("settings", chosen)
        show(f"trial {number + 1} of {trials}: {' '.join(chosen)}", {})
        try:
            study.tell(trial, _score(_as_trials(_jobs([*fixed, *chosen]), file.stem)))
        except Exception as error:  # the run's record holds all of it
            if isinstance(error, UserError) and not isinstance(error, OutOfMemoryError):
                raise
            study.tell(trial, state=TrialState.FAIL)
            log.warning("WARNING: trial %d failed and is left out: %s", number + 1, error)
    finished = len(study.get_trials(states=(TrialState.COMPLETE,)))
    if not finished:
        raise UserError(f"no trial gave a {SELECTION_METRIC}; their records in {file.parents[1]} say why")
    best = study.best_trial.user_attrs["settings"]
    title = f"best of {counted(finished, 'trial')}: {SELECTION_METRIC} {study.best_value:.4f}, {' '.join(best)}"
    show(title, {}, {"study": str(file), **confirmation([*fixed, *best])})


def check_one_condition(words: Sequence[str], fixed: Sequence[str], trials: int) -> None:
    """Raise a UserError with a command for each choice if a setting other than a seed has several."""
    for word in fixed:
        override = override_in(word)
        if override is None or not override.is_choice or "," not in override.value:
            continue
        place = words.index(word)
        studies = [
            [*words[:place], f"{override.key}={choice.strip()}", *words[place + 1 :]]
            for choice in override.value.split(",")
        ]
        commands = [shlex.join(["python", "-m", "poolwise.tune", *each, "--trials", str(trials)]) for each in studies]
        what = "representation" if override.key == "repr" else override.key
        raise UserError("\n  ".join([f"{word}: a study is of one; run one study per {what}:", *commands]))


def confirmation(words: Sequence[str]) -> dict[str, str]:
    """What to do with the best settings, for the screen: runs of them that took no part in the search.

    They have fresh seeds of stage 2, of the first name that changes the run; a run in which none of them does, as a
    probe on all labels, has fresh stage-1 runs. Where there are none either, the same run is all there is.
    """
    trial = _jobs(words)
    keys = {job.identity.key for job in trial}
    for name in ("seed", *STAGE_2_SEEDS):
        fresh = _fresh([getattr(job.settings, name) for job in trial])
        kept = [word for word in words if not word.startswith(f"{name}=")]
        if keys.isdisjoint(job.identity.key for job in _jobs([*kept, f"{name}={fresh[0]}"])):
            return {"next": shlex.join([*program(), *kept, f"{name}={','.join(fresh)}", "-m"])}
    read = [job.settings for job in trial if isinstance(job.settings, SentimentSettings)]
    if read[0].encoder == "stage1":
        others = f"stage1.seed={','.join(_fresh([each.stage1.seed for each in read]))}"
        settings = [*(word for word in words if not word.startswith("stage1.seed=")), others]
        return {
            "first": f"{stage1_command(prepared([*settings, '-m']))} -m",
            "next": shlex.join([*program(), *settings, "-m"]),
        }
    return {
        "note": "nothing in this run is random, so fresh seeds would repeat it; other stage-1 runs (encoder=) or draws "
        "of labels (labels_per_class=) would confirm it",
        "next": shlex.join([*program(), *words]),
    }


def _fresh(seeds: Sequence[int]) -> list[str]:
    return [str(max(seeds) + further) for further in range(1, FRESH_SEEDS + 1)]


def _as_trials(jobs: Sequence["Job"], study: str) -> Sequence["Job"]:
    """The jobs with the mark by which a report leaves them out; it does not enter their keys."""
    for job in jobs:
        job.identity = replace(job.identity, flat={**job.identity.flat, STUDY: study})
    return jobs


def _jobs(words: Sequence[str]) -> list["Job"]:
    """The jobs of a trial, one a seed, as training plans them."""
    jobs = [planned(composed(overrides), overrides) for overrides in jobs_of(prepared(words))]
    if len({job.identity.group for job in jobs}) > 1:
        raise UserError(f"{' '.join(words)}: several conditions; a trial is of one, and only a seed may have a list")
    return jobs


def _score(jobs: Sequence["Job"]) -> float:
    """The mean over a trial's runs of the dev metric that stage 2 selects by. Test is not looked at, nor shown."""
    from poolwise.stages.loop import run

    for job in jobs:
        job.headline = (SELECTION_METRIC,)
        run(job)
    return fmean(float((read_record(job.folder) or {})["metrics"][SELECTION_METRIC]) for job in jobs)


def _opened(file: Path) -> "Study":
    """The study in a journal of Optuna's, a line of JSON each step; a new one if there is none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(file)))
    return optuna.create_study(storage=storage, study_name=file.stem, direction="maximize", load_if_exists=True)


if __name__ == "__main__":
    main()
