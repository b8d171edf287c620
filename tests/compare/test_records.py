import json

import numpy as np
import pytest

from helpers import EXAMPLES, write_run
from poolwise.compare.inference import Axes
from poolwise.compare.limits import unlike_rates
from poolwise.compare.records import (
    Condition,
    label_of,
    matched,
    paired_answers,
    read_runs,
    selected,
    steps_of,
    with_chosen_learning_rates,
)
from poolwise.compare.report import write_report
from poolwise.runs import write_record
from poolwise.settings import UserError


def condition(runs, representation: str, adaptation: str = "after stage 1 with bow") -> Condition:
    found = read_runs(runs, "sentiment")
    return Condition(found[(found["repr"] == representation) & (found["adaptation"] == adaptation)])


def names(folders: list[list[str]]) -> list[list[str]]:
    """`repr-seed` of each folder."""
    return [[folder.rsplit("/", 1)[1].rsplit("-", 1)[0] for folder in row] for row in folders]


def test_runs_that_did_not_finish_are_left_out(runs):
    record = next((runs / "sentiment").glob("mean-1-*/record.json"))
    write_record(record.parent, {**json.loads(record.read_text()), "status": "failed"})
    assert len(read_runs(runs, "sentiment")) == 8


@pytest.mark.parametrize("status", ["random", "stale", "never trained"])
def test_a_doubtful_pooler_is_called_that(status):
    assert label_of({"repr": "pooler", "pooler_status": status}) == f"pooler ({status})"
    assert label_of({"repr": "cls", "pooler_status": status}) == "cls"
    assert label_of({"repr": "pooler@layer3", "pooler_status": status}) == f"pooler@layer3 ({status})"
    assert label_of({"repr": "pooler", "pooler_status": "trained"}) == "pooler"


def test_settings_families_and_encoders_are_told_apart(tmp_path):
    write_run(tmp_path, "cls", 1, [], dev=0.9)
    write_run(tmp_path, "cls", 2, [], dev=0.9, labels=8)
    write_run(tmp_path, "cls", 3, [], dev=0.9, stage1_seed=2)
    write_run(tmp_path, "cls", 4, [], dev=0.9, objective=None)
    write_run(tmp_path, "cls", 5, [], dev=0.9, learning_rate=0.1)
    write_run(tmp_path, "cls", 6, [], dev=0.9, epochs=9)
    runs = read_runs(tmp_path, "sentiment").set_index("seed")
    assert runs["family"].nunique() == 2  # other epochs are another one
    assert runs["setting"].nunique() == 3
    assert runs.loc[[1, 3, 4, 5], "setting"].nunique() == 1
    assert runs.loc[[1, 3, 5], "encoder_key"].nunique() == 1
    assert runs.loc[4, "adaptation"] == "not adapted"
    assert runs.loc[1, "setting_label"] == "demo, tiny, finetune (protocol.epochs=2)"  # two have these words
    assert runs.loc[6, "setting_label"] == "demo, tiny, finetune (protocol.epochs=9)"
    assert runs.loc[2, "setting_label"] == "demo, tiny, finetune on 8 labels a class"
    write_run(tmp_path, "cls", 7, [], dev=0.9, labels=8, numerics_version=4)
    runs = read_runs(tmp_path, "sentiment").set_index("seed")
    assert runs.loc[7, "setting_label"] == "demo, tiny, finetune on 8 labels a class (numerics_version=4)"


def test_a_learning_rate_of_a_representation_does_not_tell_settings_apart(tmp_path):
    write_run(tmp_path, "cls", 1, [], dev=0.9, labels=8)
    folder = write_run(tmp_path, "layer_mix", 1, [], dev=0.9, labels=8)
    record = json.loads((folder / "record.json").read_text())
    labels = {**record["material"]["labels"], "passes": 3}
    material = {**record["material"], "representation_rate": 0.01, "labels": labels}
    write_record(folder, {**record, "material": material})
    found = read_runs(tmp_path, "sentiment")
    assert set(found["repr"]) == {"cls", "layer_mix"}
    assert found["setting"].nunique() == 1


def test_encoders_of_the_same_words_get_a_key(tmp_path):
    write_run(tmp_path, "cls", 1, [], dev=0.9)
    write_run(tmp_path, "cls", 2, [], dev=0.9, encoder_condition="another bow")
    found = sorted(read_runs(tmp_path, "sentiment")["adaptation"])
    assert len(set(found)) == 2
    assert all(words.startswith("after stage 1 with bow (") for words in found)


def test_runs_are_paired_by_their_seeds(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, "cls", seed, [seed], dev=0.9)
    for seed in (2, 3, 4):
        write_run(tmp_path, "mean", seed, [], dev=0.9)
    found = matched([condition(tmp_path, "cls"), condition(tmp_path, "mean")])
    assert list(map(names, found)) == [[["cls-2", "cls-3"]], [["mean-2", "mean-3"]]]
    (answers, other), _ = paired_answers([condition(tmp_path, "cls"), condition(tmp_path, "mean")])
    assert answers.shape == other.shape == (1, 2, EXAMPLES)
    assert np.argwhere(~answers).tolist() == [[0, 0, 2], [0, 1, 3]]


def test_runs_without_a_common_seed_cannot_be_paired(tmp_path):
    write_run(tmp_path, "mean", 1, [0], dev=0.9)
    write_run(tmp_path, "cls", 2, [0, 1], dev=0.8)
    assert matched([condition(tmp_path, "cls"), condition(tmp_path, "mean")]) is None


def test_as_many_runs_are_taken_on_each_stage_1_run_as_all_have(tmp_path):
    for stage1_seed, seeds in ((11, (1, 2)), (12, (1, 2, 3)), (13, (7,))):
        for seed in seeds:
            write_run(tmp_path, "cls", seed, [], dev=0.9, stage1_seed=stage1_seed)
            write_run(tmp_path, "mean", seed, [], dev=0.9, stage1_seed=stage1_seed)
    found = matched([condition(tmp_path, "cls"), condition(tmp_path, "mean")])
    assert names(found[0]) == [["cls-1"], ["cls-1"], ["cls-7"]]
    assert len({folder for row in found[0] for folder in row}) == 3
    assert condition(tmp_path, "cls").answers()[0].shape == (3, 1, EXAMPLES)


def test_runs_of_an_unadapted_encoder_are_dealt_out_each_once(tmp_path):
    for stage1_seed in (11, 12, 13):
        for seed in (1, 2):
            write_run(tmp_path, "cls", seed, [], dev=0.9, stage1_seed=stage1_seed)
    for seed in range(1, 8):
        write_run(tmp_path, "mean", seed, [], dev=0.9, objective=None)
    adapted, unadapted = matched([condition(tmp_path, "cls"), condition(tmp_path, "mean", "not adapted")])
    assert names(adapted) == [["cls-1", "cls-2"]] * 3
    assert names(unadapted) == [["mean-1", "mean-4"], ["mean-2", "mean-5"], ["mean-3", "mean-6"]]


def test_probes_of_an_unadapted_encoder_stand_beside_each_stage_1_run(tmp_path):
    for draw in (1, 2):
        for stage1_seed in (11, 12):
            write_run(tmp_path, "cls", draw, [], dev=0.9, stage1_seed=stage1_seed, protocol="probe", labels=8)
        write_run(tmp_path, "cls", draw, [], dev=0.9, objective=None, protocol="probe", labels=8)
    pair = [condition(tmp_path, "cls"), condition(tmp_path, "cls", "not adapted")]
    assert [names(folders) for folders in matched(pair)] == [[["cls-1", "cls-2"]] * 2] * 2


def test_a_random_pooler_of_several_seeds_stands_beside_the_one_probe_of_cls(tmp_path):
    write_run(tmp_path, "cls", 1, [], dev=0.9, protocol="probe")
    for seed in (1, 2, 3):
        folder = write_run(tmp_path, "pooler", seed, [], dev=0.9, protocol="probe", status="random")
        record = json.loads((folder / "record.json").read_text())
        record["material"]["seed"] = seed
        write_record(folder, record)
    found = matched([condition(tmp_path, "cls"), condition(tmp_path, "pooler")])
    assert [names(folders) for folders in found] == [[["cls-1"] * 3], [["pooler-1", "pooler-2", "pooler-3"]]]


def test_runs_are_paired_by_each_seed_that_both_depend_on(tmp_path):
    for head in (1, 2):
        seeds = {"head_seed": head, "order_seed": 1}
        write_run(tmp_path, "cls", head, [], dev=0.9, **seeds)
        for pooler in (1, 2):
            write_run(tmp_path, "cls_linear", 10 * head + pooler, [], dev=0.9, **seeds, pooler_seed=pooler)
    for file in (tmp_path / "sentiment").glob("*/record.json"):  # as several seeds that differ are written
        record = json.loads(file.read_text())
        record["material"] = {key: value for key, value in record["material"].items() if key != "seed"}
        write_record(file.parent, record)
    found = matched([condition(tmp_path, "cls"), condition(tmp_path, "cls_linear")])
    assert [names(folders) for folders in found] == [
        [["cls-1", "cls-2"]],
        [["cls_linear-11", "cls_linear-21"]],
    ]


def test_the_learning_rate_is_chosen_on_dev(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "cls", seed, [1, 2], dev=0.9, learning_rate=1e-3)
        write_run(tmp_path, "cls", seed + 10, [], dev=0.8, learning_rate=2e-3)
        write_run(tmp_path, "mean", seed, [], dev=0.7, learning_rate=1e-3)
        write_run(tmp_path, "mean", seed + 10, [], dev=0.7, learning_rate=2e-3)
    kept = with_chosen_learning_rates(read_runs(tmp_path, "sentiment"))
    assert sorted(zip(kept["repr"], kept["seed"], kept["learning_rate"], strict=True)) == [
        ("cls", 1, 1e-3),
        ("cls", 2, 1e-3),
        ("mean", 1, 1e-3),  # the lower of equals
        ("mean", 2, 1e-3),
    ]
    assert set(kept["tried"]) == {"0.001 0.002"}


def test_a_rate_that_was_tried_once_is_not_chosen_by_luck(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, "cls", seed, [], dev=0.8, learning_rate=1e-3)
    write_run(tmp_path, "cls", 4, [], dev=0.9, learning_rate=2e-3)
    kept = with_chosen_learning_rates(read_runs(tmp_path, "sentiment"))
    assert sorted(kept["seed"]) == [1, 2, 3]
    assert set(kept["tried"]) == {"0.001"}  # what it was chosen from
    assert unlike_rates(kept) == {}


def test_more_seeds_at_one_rate_do_not_choose_it(tmp_path):
    """Three rates on three seeds, the lowest best on dev; then two more seeds at the middle one."""
    for seed in (1, 2, 3):
        for rate, dev in ((1e-4, 0.9), (3e-4, 0.8), (1e-3, 0.7)):
            write_run(tmp_path, "cls", seed, [], dev=dev, learning_rate=rate)
    for seed in (4, 5):
        write_run(tmp_path, "cls", seed, [], dev=0.95, learning_rate=3e-4)  # easy seeds, which the others did not have
    kept = with_chosen_learning_rates(read_runs(tmp_path, "sentiment"))
    assert set(kept["learning_rate"]) == {1e-4}
    assert set(kept["tried"]) == {"0.0001 0.0003 0.001"}


def test_a_rate_that_was_chosen_on_one_seed_is_told_as_chosen(tmp_path):
    for rate, dev in ((1e-4, 0.9), (3e-4, 0.8), (1e-3, 0.7)):
        write_run(tmp_path, "cls", 1, [], dev=dev, learning_rate=rate)
    for seed in (2, 3):
        write_run(tmp_path, "cls", seed, [], dev=0.6, learning_rate=1e-4)
    kept = with_chosen_learning_rates(read_runs(tmp_path, "sentiment"))
    assert sorted(zip(kept["seed"], kept["learning_rate"], strict=True)) == [(1, 1e-4), (2, 1e-4), (3, 1e-4)]
    assert set(kept["tried"]) == {"0.0001 0.0003 0.001"}


def test_few_labels_that_are_read_more_often_are_another_setting(tmp_path):
    for seed, (labels, passes, steps) in enumerate([(8, 5, 100), (8, 1, 0), (32, 3, 100), (32, 1, 0), (None, 1, 0)]):
        folder = write_run(tmp_path, "cls", seed, [], dev=0.9, labels=labels)
        record = json.loads((folder / "record.json").read_text())
        if passes > 1:
            record["material"]["labels"]["passes_an_epoch"] = passes
        record["config"]["protocol"]["least_steps"] = steps
        write_record(folder, record)
    runs = read_runs(tmp_path, "sentiment")
    assert runs["setting"].nunique() == 5
    assert runs["family"].nunique() == 1
    assert "demo, tiny, finetune on 8 labels a class (protocol.least_steps=0)" in set(runs["setting_label"])
    report = write_report(tmp_path)
    assert [len(section.details) > 0 for section in report.sections] == [False, False, False, False, True]
    assert len(report.labels) == 2  # a curve for each, both of which end at all labels


def test_trials_of_a_study_are_left_out_unless_asked_for(tmp_path):
    write_run(tmp_path, "cls", 1, [], dev=0.9)
    write_run(tmp_path, "cls", 2, [], dev=0.9, epochs=9, study="ab12")
    write_run(tmp_path, "cls", 3, [], dev=0.9, study="cd34")
    found = read_runs(tmp_path, "sentiment")
    kept = selected(found, [])
    assert list(kept["seed"]) == [1]
    assert list(kept["setting_label"]) == ["demo, tiny, finetune"]  # not told apart from a trial of other epochs
    assert list(selected(found, ["study=ab12"])["seed"]) == [2]
    assert sorted(selected(found, ["study=ab12,cd34", "repr=cls"])["seed"]) == [2, 3]
    with pytest.raises(UserError, match="study=x: no finished run has this; there are: ab12, cd34"):
        selected(found, ["study=x"])
    with pytest.raises(UserError, match=r"all finished runs are trials of poolwise\.tune.*study=NAME.*ab12, cd34"):
        selected(found[found["study"].notna()], [])


def test_a_broken_folder_is_left_out(runs, caplog):
    folders = sorted((runs / "sentiment").iterdir())
    (folders[0] / "predictions.parquet").write_bytes(b"PAR1")
    (folders[1] / "predictions.parquet").unlink()
    for folder, change in ((folders[2], {"material": None}), (folders[3], {"metrics": {"dev/macro_f1": None}})):
        record = json.loads((folder / "record.json").read_text())
        write_record(folder, {**record, **change})
    assert len(read_runs(runs, "sentiment")) == len(folders) - 4
    assert caplog.text.count("is broken and left out") == 4


@pytest.mark.parametrize(
    "name", ["condition", "data", "stage1_seed", "started", "representation", "label_names", "versions"]
)
def test_a_record_with_entries_of_another_kind_is_left_out(runs, caplog, name):
    folder, *others = sorted((runs / "sentiment").iterdir())
    write_record(
        folder, {**json.loads((folder / "record.json").read_text()), name: [] if name != "label_names" else "x"}
    )
    assert len(read_runs(runs, "sentiment")) == len(others)
    assert f"its record lacks {name} as it should be" in caplog.text


def test_runs_that_share_a_draw_of_labels_are_one_unit(tmp_path):
    """Two draws, and on each of them two heads that no other draw has."""
    for draw in (1, 2):
        for head in (1, 2):
            seeds = {"label_seed": draw, "head_seed": 10 * draw + head}
            for name in ("cls", "mean"):
                write_run(tmp_path, name, 10 * draw + head, [draw, 10 + head], dev=0.9, labels=8, **seeds)
    pair = [condition(tmp_path, "cls"), condition(tmp_path, "mean")]
    for answers in (pair[0].answers()[0], *paired_answers(pair)[0]):
        assert answers.shape == (1, 2, EXAMPLES)
        shares = answers[0][:, [1, 2, 11, 12]].tolist()
        assert shares == [[0, 1, 0.5, 0.5], [1, 0, 0.5, 0.5]]


@pytest.mark.parametrize("shared", [True, False])
def test_draws_of_labels_that_stage_1_runs_share_are_told(tmp_path, shared):
    """Two draws on each of three stage-1 runs: the same two, or six."""
    for number, stage1_seed in enumerate((11, 12, 13)):
        for draw in (1, 2):
            seed = draw if shared else 10 * number + draw
            for name in ("cls", "mean"):
                wrong = [draw, 10 + number]
                write_run(tmp_path, name, seed, wrong, 0.9, stage1_seed=stage1_seed, protocol="probe", labels=8)
    pair = [condition(tmp_path, "cls"), condition(tmp_path, "mean")]
    assert pair[0].answers()[1] == paired_answers(pair)[1] == Axes(shared_draws=shared)
    assert pair[0].answers()[0].shape == (3, 2, EXAMPLES)
    assert pair[0].accuracy.draws == (2 if shared else 0)
    assert sorted(pair[0].by_unit("test/accuracy")) == pytest.approx([0.99] * 3)


def test_heads_on_a_shared_draw_count_by_their_mean(tmp_path):
    for stage1_seed in (11, 12):
        for draw in (1, 2):
            for head in (1, 2):
                seeds = {"label_seed": draw, "head_seed": head}
                write_run(tmp_path, "cls", 10 * draw + head, [draw], 0.9, stage1_seed=stage1_seed, labels=8, **seeds)
    answers, axes = condition(tmp_path, "cls").answers()
    assert (answers.shape, axes) == ((2, 2, EXAMPLES), Axes(shared_draws=True))
    assert answers[:, :, [1, 2]].tolist() == [[[0, 1], [1, 0]]] * 2


def test_heads_and_draws_that_are_crossed_on_one_encoder_are_two_axes(tmp_path):
    for head in (1, 2, 3):
        for draw in (1, 2, 3, 4, 5):
            seeds = {"label_seed": draw, "head_seed": head}
            write_run(tmp_path, "cls", 10 * draw + head, [draw, 10 + head], 0.9, labels=8, **seeds)
    answers, axes = condition(tmp_path, "cls").answers()
    assert (answers.shape, axes) == ((3, 5, EXAMPLES), Axes(shared_draws=True, one_encoder=True))
    assert np.argwhere(answers[1] == 0).tolist() == [[draw - 1, wrong] for draw in range(1, 6) for wrong in (draw, 12)]
    found = condition(tmp_path, "cls").accuracy
    assert (found.stage1_runs, found.stage2_runs, found.draws) == (1, 3, 5)


def test_a_missing_run_costs_its_draw_and_not_the_part_of_draws(tmp_path):
    """Three stage-1 runs on five draws; of one condition, one run in the middle is missing."""
    for stage1_seed in (11, 12, 13):
        for draw in (1, 2, 3, 4, 5):
            for name in ("cls", "mean"):
                if (name, stage1_seed, draw) != ("cls", 12, 2):
                    write_run(tmp_path, name, draw, [draw], 0.9, stage1_seed=stage1_seed, protocol="probe", labels=8)
    cls, mean = condition(tmp_path, "cls"), condition(tmp_path, "mean")
    assert (cls.draws_left_out(), mean.draws_left_out()) == ([2], [])
    for answers, axes in (cls.answers(), (paired_answers([cls, mean])[0][1], paired_answers([cls, mean])[1])):
        assert (answers.shape, axes) == ((3, 4, EXAMPLES), Axes(shared_draws=True))
        assert [np.argwhere(row == 0).tolist() for row in answers] == [[[0, 1], [1, 3], [2, 4], [3, 5]]] * 3
    report = write_report(tmp_path)
    assert any("lack draws of labels that others have" in limit and "cls" in limit for limit in report.limits)


def test_seeds_are_whole_numbers_beside_runs_that_have_none(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, "mean", seed, [seed], 0.9, stage1_seed=seed)
        for draw in (1, 2, 3):
            seeds = {"label_seed": draw, "head_seed": 10 * draw + seed}
            write_run(tmp_path, "cls", 100 * seed + draw, [draw], 0.9, stage1_seed=seed, labels=8, **seeds)
            write_run(tmp_path, "pooler", 100 * seed + draw, [draw], 0.9, stage1_seed=seed, labels=8, **seeds)
    write_run(tmp_path, "max", 1, [1], 0.9, objective=None)
    few = [condition(tmp_path, name) for name in ("cls", "pooler")]
    assert {str(kind) for kind in few[0].seeds().drop(columns="folder").dtypes} == {"int64"}
    assert matched(few) is not None
    (one, other), axes = paired_answers(few)
    assert one.shape == other.shape
    assert axes == paired_answers(few)[1]


def test_a_draw_that_a_head_lacks_is_told_too(tmp_path):
    for head in (1, 2, 3):
        for draw in (1, 2, 3):
            if (head, draw) != (2, 2):
                seeds = {"label_seed": draw, "head_seed": head}
                write_run(tmp_path, "cls", 10 * draw + head, [], 0.9, objective=None, labels=8, **seeds)
    found = condition(tmp_path, "cls", "not adapted")
    assert found.answers()[0].shape == (3, 2, EXAMPLES)
    assert found.draws_left_out() == [2]


def test_two_unadapted_runs_of_each_draw_stand_beside_two_stage_1_runs(tmp_path):
    for draw in (1, 2, 3, 4, 5):
        for stage1_seed in (11, 12, 13):
            seed = 100 * draw + stage1_seed
            write_run(tmp_path, "cls", seed, [draw], 0.9, stage1_seed=stage1_seed, labels=8, label_seed=draw)
            if stage1_seed < 13:
                write_run(tmp_path, "cls", seed, [draw], 0.9, objective=None, labels=8, label_seed=draw)
    (adapted, unadapted), axes = paired_answers([condition(tmp_path, "cls"), condition(tmp_path, "cls", "not adapted")])
    assert (adapted.shape, axes) == ((2, 5, EXAMPLES), Axes(shared_draws=True))
    assert (adapted == unadapted).all()


def test_runs_of_an_unadapted_encoder_stand_beside_those_of_their_draw_of_labels(tmp_path):
    for draw in (1, 2, 3, 4, 5):
        for stage1_seed in (11, 12, 13):
            seed = 100 * draw + stage1_seed
            write_run(tmp_path, "cls", seed, [draw], 0.9, stage1_seed=stage1_seed, labels=8, label_seed=draw)
            write_run(tmp_path, "cls", seed, [draw], 0.9, objective=None, labels=8, label_seed=draw)
    pair = [condition(tmp_path, "cls"), condition(tmp_path, "cls", "not adapted")]
    (adapted, unadapted), axes = paired_answers(pair)
    assert (adapted.shape, axes) == ((3, 5, EXAMPLES), Axes(shared_draws=True))
    assert (adapted == unadapted).all()
    folders = [folder for row in matched(pair)[1] for folder in row]
    assert len(folders) == len(set(folders)) == 15


def test_stage_1_runs_with_unlike_many_runs_count_alike(tmp_path):
    for stage1_seed, seeds in ((11, (1, 2, 3)), (12, (1,))):
        for seed in seeds:
            write_run(tmp_path, "cls", seed, [seed], dev=0.9, stage1_seed=stage1_seed)
    answers, _ = condition(tmp_path, "cls").answers()
    assert answers.shape == (2, 1, EXAMPLES)
    assert answers[0, 0, 1:4].tolist() == pytest.approx([2 / 3] * 3)
    assert answers[1, 0, 1:4].tolist() == [0.0, 1.0, 1.0]


def test_probes_have_no_learning_rate_and_all_stay(tmp_path):
    folder = write_run(tmp_path, "cls", 1, [], dev=0.9, protocol="probe")
    record = json.loads((folder / "record.json").read_text())
    record["material"]["protocol"] = {"name": "probe", "strengths": [1.0]}
    write_record(folder, record)
    kept = with_chosen_learning_rates(read_runs(tmp_path, "sentiment"))
    assert len(kept) == 1
    assert kept["learning_rate"].isna().all()


def test_selection_by_keys_of_config_and_record(runs):
    found = read_runs(runs, "sentiment")
    assert set(selected(found, ["repr=cls,mean"])["repr"]) == {"cls", "mean"}
    assert len(selected(found, ["repr.name=cls", "seed=2,3"])) == 2
    assert len(selected(found, ["protocol=finetune", "objective=bow"])) == 9
    assert len(selected(found, ["protocol.epochs=2.0", "seed=1e0"])) == 3
    with pytest.raises(UserError, match=r"repr=max: no finished run has this; there are: cls, mean, pooler"):
        selected(found, ["repr=max"])
    with pytest.raises(UserError, match=r"rerp=cls: not KEY=VALUE with a key of the config.*did you mean repr"):
        selected(found, ["rerp=cls"])
    with pytest.raises(UserError, match="cls: not KEY=VALUE"):
        selected(found, ["cls"])


def test_selection_takes_what_the_program_takes(tmp_path):
    for seed, objective, stage1_seed in ((1, "bow-90s", 11), (2, "none", 1234567), (3, None, None)):
        folder = write_run(tmp_path, "cls", seed, [], dev=0.9, objective=objective, stage1_seed=stage1_seed)
        record = json.loads((folder / "record.json").read_text())
        stage1 = {"epochs": 2, "objective": {"name": (objective or "bow").partition("-")[0]}, "seed": stage1_seed or 11}
        record["config"] |= {
            "stage1": stage1,  # of the unadapted encoder the defaults, which say nothing of it
            "labels_per_class": 8 if seed == 2 else None,
            "encoder": record["encoder"],
            "model": {"name": "tiny", "path": "models/mine"},
        }
        write_record(folder, record)
    found = read_runs(tmp_path, "sentiment")

    def seeds(*selection):
        return sorted(selected(found, selection)["seed"])

    for key in ("objective@stage1.objective", "objective", "stage1.objective"):
        assert seeds(f"{key}=bow") == seeds(f"{key}=bow-90s") == [1]
        assert seeds(f"{key}=bow,none") == [1, 2]
    assert seeds("stage1.seed=1234567") == seeds("stage1_seed=1234567") == [2]
    assert seeds("stage1.epochs=2") == seeds("pretraining.epochs=2") == [1, 2]
    assert seeds("encoder=base") == [3]
    assert seeds("labels_per_class=all") == seeds("labels_per_class=null") == [1, 3]
    assert seeds("labels_per_class=8,all", "protocol=finetune", "data=demo", "model=tiny") == [1, 2, 3]
    assert seeds("model=models/mine", "repr=cls") == [1, 2, 3]
    with pytest.raises(UserError, match=r"stage1\.seed=1234568: no finished run has this; there are: 11, 1234567"):
        seeds("stage1.seed=1234568")


def test_steps_are_read_where_a_metric_was_logged(runs):
    folder = next((runs / "sentiment").glob("mean-1-*"))
    (folder / "metrics.jsonl").write_text('{"step": 1, "a": 0.5}\n{"step": 2, "b": 1}\n{"step": 3, "a": 0.25}\n')
    assert steps_of(str(folder), "a") == [(1, 0.5), (3, 0.25)]
