import pytest

from helpers import write_run
from poolwise.compare.records import read_runs
from poolwise.compare.summary import one_for_all, summary_table
from poolwise.compare.verdict import Setting, settings_of


@pytest.fixture
def settings(tmp_path) -> list[Setting]:
    """`mean` is best on few labels, `cls` on all, where `mean` is near it; `pooler` is on all labels alone."""
    for labels, name, objective, wrong, dev in (
        (8, "mean", "bow", 40, 0.80),
        (8, "mean", None, 20, 0.70),
        (8, "cls", "bow", 60, 0.60),
        (None, "mean", "bow", 20, 0.89),
        (None, "cls", "bow", 10, 0.90),
        (None, "pooler", "bow", 30, 0.85),
    ):
        write_run(tmp_path, name, 1, list(range(wrong)), dev, objective=objective, labels=labels, protocol="probe")
    return settings_of(read_runs(tmp_path, "sentiment"))


def test_each_setting_is_a_row_with_its_best_and_the_distances_from_it(settings):
    table = summary_table(settings)
    assert list(table.columns) == [
        *("setting", "use", "test accuracy", "95 % interval", "mean", "cls", "pooler", "encoder")
    ]
    few, every = table.rows
    encoder = "after stage 1 with bow"
    assert [*few[:3], *few[4:]] == ["probe on 8 labels a class", "mean", "80.0", "best", "-10.0", "not run", encoder]
    assert [*every[:3], *every[4:]] == ["probe on all labels", "cls", "95.0", "-5.0", "best", "-10.0", encoder]
    assert list(table.group) == ["demo, tiny", "demo, tiny"]


def test_one_for_all_is_nearest_to_the_best_on_dev_of_those_that_are_everywhere(settings):
    words = one_for_all(settings)
    assert words is not None
    assert words.startswith("Use mean where one representation must serve all 2 settings")
    assert "on average and at worst: mean -2.5 and -5.0; cls -5.0 and -10.0. Not run in all: pooler." in words


def test_with_one_representation_everywhere_there_is_no_choice(tmp_path):
    for labels in (8, None):
        write_run(tmp_path, "cls", 1, [0], 0.9, labels=labels, protocol="probe")
    assert one_for_all(settings_of(read_runs(tmp_path, "sentiment"))) is None
