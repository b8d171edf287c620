from dataclasses import asdict

import pytest

from helpers import BOW
from poolwise.objectives.bow import BagOfWords
from poolwise.settings import (
    OFF,
    Bounds,
    Budget,
    Finetune,
    HubData,
    Masking,
    Pretraining,
    Seed,
    UserError,
    problems_with,
    problems_with_value,
    take_all,
    typed,
    unknown_key,
)

OPTIMISATION = {"learning_rate": 1e-3, "weight_decay": 0, "warmup_share": 0.1, "gradient_clip_norm": 1}
MASKING = {
    "mask_probability": 0.15,
    "mask_token_share": 0.8,
    "random_token_share": 0.1,
    "unit": "token",
    "final_mask_probability": None,
}
PRETRAINING = {
    "epochs": 1,
    "budget": None,
    "batch_size": 8,
    "batch_tokens": None,
    "masking": MASKING,
    "optimisation": OPTIMISATION,
    "pooler_init": "keep",
    "pooler_learning_rate": None,
    "trainable": "all",
}

FINITE = "pretraining.{}={}: must be a finite number"


def test_right_values_have_no_problem():
    assert problems_with(Pretraining, PRETRAINING, "pretraining.") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "pretraining.epochs=0: must be at least 1"),
        ({"epochs": 1.5}, "pretraining.epochs=1.5: must be a whole number"),
        ({"epochs": True}, "pretraining.epochs=True: must be a whole number"),
        ({"pooler_init": "zero"}, "pretraining.pooler_init='zero': must be one of keep, fresh"),
        (
            {"masking": {**MASKING, "mask_probability": 1}},
            "pretraining.masking.mask_probability=1: must be above 0 and below 1",
        ),
        (
            {"optimisation": {**OPTIMISATION, "learning_rate": "fast"}},
            "pretraining.optimisation.learning_rate='fast': must be a number",
        ),
        (
            {"masking": {**MASKING, "final_mask_probability": float("nan")}},
            FINITE.format("masking.final_mask_probability", "nan"),
        ),
        (
            {"optimisation": {**OPTIMISATION, "learning_rate": float("inf")}},
            FINITE.format("optimisation.learning_rate", "inf"),
        ),
        (
            {"optimisation": {**OPTIMISATION, "weight_decay": 10**400}},
            FINITE.format("optimisation.weight_decay", 10**400),
        ),
        ({"masking": 3}, "pretraining.masking=3: must be a group of settings"),
    ],
)
def test_each_problem_names_key_value_and_what_is_allowed(changes, message):
    assert problems_with(Pretraining, {**PRETRAINING, **changes}, "pretraining.") == [message]


def test_limits_are_written_whole():
    assert problems_with_value(Seed, 2**32, "seed") == ["seed=4294967296: must be at least 0 and below 4294967296"]
    assert str(Bounds(above=0.1, at_most=1e-7)) == "above 0.1 and at most 1e-07"


def test_all_problems_are_found_together():
    wrong = {"epochs": 0, "budget": None, "batchsize": 8, "masking": MASKING, "optimisation": OPTIMISATION}
    found = problems_with(Pretraining, wrong, "")
    assert len(found) == 7
    assert found[0].startswith(
        "batchsize=8: no such setting (did you mean batch_size?); allowed: epochs, budget, batch_size"
    )
    assert found[1:4] == ["batch_size is missing", "batch_tokens is missing", "pooler_init is missing"]


def test_settings_of_other_classes_are_their_keyword_only_arguments():
    right = {key: value for key, value in BOW.items() if key != "name"}
    assert problems_with(BagOfWords, right, "objective.") == []
    assert problems_with(BagOfWords, {**right, "weight": -1}, "objective.") == [
        "objective.weight=-1: must be at least 0"
    ]


def test_typed_builds_nested_settings_and_makes_3_and_3_point_0_the_same():
    built = Finetune(
        imbalance="none",
        **typed(
            Finetune,
            {
                **{
                    "name": "finetune",
                    "epochs": 1,
                    "batch_size": 8,
                    "batch_tokens": None,
                    "least_steps": 9,
                    "dropout": 0,
                },
                "optimisation": OPTIMISATION,
                **{"layer_decay": 1, "reinitialise": {"pooler": False, "top_layers": 0}},
                **{"gradual_unfreezing": False, "early_stopping": None},
            },
        ),
    )
    assert built.optimisation.gradient_clip_norm == 1.0
    assert type(built.optimisation.gradient_clip_norm) is float
    assert type(built.dropout) is type(built.layer_decay) is float
    assert {key: value for key, value in asdict(built).items() if key in OFF} == {
        key: value for key, value in OFF.items() if key != "folds"
    }
    assert typed(BagOfWords, {"name": "bow", "weight": 3}) == {"name": "bow", "weight": 3.0}
    assert typed(HubData, {"text": ["train"]}) == {"text": ("train",)}
    assert typed(Pretraining, PRETRAINING)["masking"] == Masking(**MASKING)


def test_unknown_key_without_a_near_one():
    assert unknown_key("x", 3, []) == "x=3: no such setting; allowed: none"


def test_a_choice_that_is_nearly_right_is_named():
    assert problems_with(Pretraining, {**PRETRAINING, "pooler_init": "kep"}, "") == [
        "pooler_init='kep': must be one of keep, fresh (did you mean keep?)"
    ]


def test_every_step_is_taken_and_all_mistakes_are_told_once():
    taken = []

    def step(name, *messages):
        taken.append(name)
        if messages:
            raise UserError(*messages)

    with pytest.raises(UserError) as error:
        take_all([lambda: step(1, "a", "b\nc"), lambda: step(2), lambda: step(3, "a")])
    assert taken == [1, 2, 3]
    assert error.value.messages == ("a", "b\nc")
    assert str(error.value) == "2 mistakes\n  a\n  b\n  c"
    assert str(UserError("one")) == "one"
    take_all([lambda: step(4)])


@pytest.mark.parametrize(
    ("written", "amount", "unit", "short", "words"),
    [
        ("2000steps", 2000, "steps", "2000steps", "2,000 steps"),
        ("1000000tokens", 1_000_000, "tokens", "1000000tokens", "1,000,000 tokens"),
        ("90s", 90.0, "seconds", "90s", "1 min 30 s"),
        ("0.5s", 0.5, "seconds", "0.5s", "0.5 s"),
        ("10min", 600.0, "seconds", "600s", "10 min 0 s"),
        ("1.5h", 5400.0, "seconds", "5400s", "1 h 30 min"),
    ],
)
def test_budgets_are_read_and_written(written, amount, unit, short, words):
    budget = Budget.read(written)
    assert (budget, str(budget), budget.in_words()) == (Budget(amount, unit), short, words)
    assert Budget.read(short) == budget
    assert typed(Pretraining, {**PRETRAINING, "budget": written})["budget"] == budget
    assert problems_with(Pretraining, {**PRETRAINING, "budget": written}, "") == []


@pytest.mark.parametrize("wrong", ["2000", "steps", "0steps", "1.5steps", "-1s", "1e3s", "0.0min", "3days", "9 s", ""])
def test_what_is_no_budget(wrong):
    assert Budget.read(wrong) is None
    assert problems_with(Pretraining, {**PRETRAINING, "budget": wrong}, "p.") == [
        f"p.budget={wrong!r}: must be a number above 0 with a unit, such as 2000steps, 1000000tokens, 90s, 10min or "
        "2h; or null"
    ]
