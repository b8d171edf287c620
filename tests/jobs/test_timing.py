"""Estimates of how long runs take, from some of their steps."""

import pytest

from helpers import SMALL_STAGE1, SMALL_STAGE2, settings
from poolwise.app import job_of
from poolwise.jobs import timing
from poolwise.jobs.timing import STEPS, Clock, estimate
from poolwise.settings import Budget, UserError

STAGE1 = ["stage=mlm", *SMALL_STAGE1, "pretraining.batch_size=4"]
STAGE2 = ["stage=sentiment", *SMALL_STAGE2, "encoder=base"]
PROBE = [word for word in STAGE2 if not word.startswith("protocol.")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*STAGE1, "objective=views", "pretraining.budget=3000tokens"], "8 timed steps"),
        ([*STAGE2, "repr=mean", "protocol.batch_size=8"], "7 timed steps"),
        ([*STAGE2, "repr=pooler", "protocol=frozen"], "8 timed steps"),
        ([*PROBE, "repr=cls", "protocol=probe"], "136 texts that the encoder read"),
    ],
)
def test_each_way_to_train_is_timed_and_leaves_nothing(words, told, tmp_path):
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "data.seed=5"]
    found = estimate(lambda: job_of(settings(*places, *words)))
    assert found.source == f"from {told}"
    assert (found.shared > 0) == ("protocol=frozen" in words or "protocol=probe" in words)
    assert (found.own > 0) == ("protocol=probe" not in words)
    assert found.shared + found.own < 20
    kept = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert {each.parent for each in kept} <= {tmp_path / "cache/vocabularies"}


def test_a_mistake_is_told_in_place_of_a_time():
    def mistaken():
        raise UserError("no such thing", "and more")

    with pytest.raises(UserError, match="no such thing"):
        estimate(mistaken)


def test_a_frozen_encoder_reads_all_labelled_texts_however_few_labels_are_drawn(monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda do, *arguments: (do(*arguments), 10.0)[1])
    probe = [*PROBE, "repr=cls", "protocol=probe"]
    every, few = (
        estimate(lambda words=words: job_of(settings(*words))) for words in (probe, [*probe, "labels_per_class=2"])
    )
    assert (every.shared, few.shared) == (10.0, 10.0 * (64 + 32 + 40) / (4 + 32 + 40))


def test_the_step_that_warms_up_and_those_unlike_others_do_not_count():
    clock = Clock()
    clock.seconds, clock.tokens = [9.0, 10.0, 17.0, 19.5], [100, 150, 250, 350]  # 0.02, 0.07 and 0.025 s a token
    assert (clock.steps, clock.tokens_of_step) == (3, 250 / 3)
    assert clock.seconds_of_step == pytest.approx(0.025 * 250 / 3)


@pytest.mark.parametrize(
    ("seconds", "enough"),
    [
        ([60.0], False),  # however long the step that warms up takes
        ([60.0, 63.0], False),
        ([60.0, 63.0, 66.0], True),
        ([60.0, 90.0], True),
        ([0.1 * n for n in range(STEPS)], False),
        ([0.1 * n for n in range(STEPS + 1)], True),
    ],
)
def test_steps_are_timed_for_some_seconds_after_the_first(seconds, enough):
    clock = Clock()
    clock.seconds = seconds
    assert clock.has_enough == enough


@pytest.mark.parametrize(("limit", "batch_size"), [(0.0, 4), (60.0, 96)])
def test_one_step_is_timed_where_it_takes_long_or_is_all_of_an_epoch(limit, batch_size, monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", limit)
    words = [*STAGE1, f"pretraining.batch_size={batch_size}", "objective=none"]
    assert estimate(lambda: job_of(settings(*words))).source == "from 1 timed step"


def test_the_length_of_a_run_is_that_of_its_budget():
    job = job_of(settings(*STAGE1, "pretraining.epochs=3", "+trainer.accumulate_grad_batches=2"))
    found = [
        timing._length(job, budget, 50, 200.0) for budget in (None, Budget(100, "steps"), Budget(50_000, "tokens"))
    ]
    assert found == [(3, 150), (4, 200), (5, 250)]
    job.settings.trainer["limit_train_batches"] = 0.5
    assert timing._length(job, None, 50, 200.0) == (3, 75)


def test_an_estimate_is_steps_times_their_time(monkeypatch):
    """960 steps of 40 epochs of 96 texts: 24 a step, 10 s each, and 1.5 times as long for a mean one."""
    monkeypatch.setattr(Clock, "seconds_of_step", 10.0)
    monkeypatch.setattr(timing, "_work_of_mean_batch", lambda data, steps: 1.5)
    words = [*STAGE1, "pretraining.epochs=40", "objective=none"]
    found = estimate(lambda: job_of(settings(*words)))
    assert (found.shared, found.source) == (0.0, f"from {STEPS} timed steps")
    assert 960 * 15 < found.own < 960 * 15 + 600  # and the evaluations
