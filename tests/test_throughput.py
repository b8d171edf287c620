"""The benchmark's own arithmetic, and that its page shows the figures that lie beside it."""

import sys

import numpy as np
import pandas
import pytest
from transformers import BertConfig

from helpers import REPOSITORY

FOLDER = REPOSITORY / "experiments/throughput"


@pytest.fixture
def summary(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import summary

    yield summary
    sys.modules.pop("summary")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import bench

    yield bench
    for name in ("bench", "worker"):
        sys.modules.pop(name)


def test_the_page_has_the_tables_of_the_figures_beside_it(summary):
    page = (FOLDER / "README.md").read_text()
    results = pandas.read_csv(FOLDER / "results.csv")
    table = summary.summary(results)
    assert len(list(summary.lines(results, table))) > 60
    assert summary.with_tables(page, results, table) == page


def test_the_best_of_a_peer_is_the_faster_one_of_a_round(summary):
    facts = {"part": "stage1", "size": "tiny", "texts": "mr", "round": 0, "steps": 1, "flops": 1.0, "limit": 1e3}
    systems = {"Trainer, defaults": (10.0, 100.0), "Trainer, best settings": (20.0, 400.0)}
    systems["poolwise, MLM alone"] = (2.0, 200.0)
    rows = [
        facts | {"system": name, "tokens": 1000, "seconds": seconds, "peak_mib": peak}
        for name, (seconds, peak) in systems.items()
    ]
    table = summary.summary(pandas.DataFrame(rows))
    own = table.set_index("system").loc["poolwise, MLM alone"]
    assert own[["to_defaults", "to_best"]].tolist() == [5.0, 5.0]
    heads, _, row, _ = summary.aims(table)
    assert heads.endswith("| share of limit | memory, x defaults | memory, x best settings |")
    assert row == "| stage1, tiny, mr | MLM alone | 1 | 5.00 | **5.00** | 50% | 2.00 | **0.50** |"


def test_ratios_are_medians_of_those_within_a_round(summary):
    facts = {"part": "stage1", "size": "tiny", "texts": "mr", "steps": 10, "flops": 1e6}
    rows = [
        facts | {"round": round_, "system": system, "tokens": 1000, "seconds": seconds, "limit": limit}
        for round_, system, seconds, limit in (
            (0, "Trainer, defaults", 10.0, 1e9),
            (0, "Trainer, best settings", 5.0, 2e9),
            (0, "poolwise, MLM alone", 1.0, 6e9),
            (1, "Trainer, defaults", 20.0, 1e9),
            (1, "Trainer, best settings", 4.0, 1e9),
            (1, "poolwise, MLM alone", 1.0, 1e9),
        )
    ]
    table = summary.summary(pandas.DataFrame(rows)).set_index("system")
    own = table.loc["poolwise, MLM alone"]
    assert own[["rounds", "tokens_per_second", "to_defaults", "to_best"]].tolist() == [2, 1000, 15, 4.5]
    assert own[["to_best_min", "to_best_max"]].tolist() == [4, 5]
    assert own["share_of_limit"] == (0.5 + 1.0) / 2  # by the median limit of each round


@pytest.mark.parametrize(
    ("loss", "seconds", "bound"), [(2.0, 4.0, ""), (3.5, 1.0, "at most"), (0.5, 16.0, "more than"), (1.5, 8.0, "")]
)
def test_time_to_a_loss_is_read_off_between_two_runs(summary, loss, seconds, bound):
    runs = pandas.DataFrame({"seconds": [1.0, 4.0, 16.0], "steps": [1, 4, 16], "dev_loss": [3.0, 2.0, 1.0]})
    assert summary.needed_to(loss, runs, "seconds") == (pytest.approx(seconds), bound)
    assert summary.needed_to(loss, runs, "steps")[0] == pytest.approx(seconds)


def test_needed_operations_are_those_of_the_products_by_hand(bench):
    config = BertConfig(hidden_size=4, num_hidden_layers=1, intermediate_size=16, vocab_size=10)
    layer = 8 * 4**2 + 4 * 4 * 16 + 4 * 4 * 8  # all texts have 8 tokens
    lengths = np.full(3, 8)
    assert bench.flops_of_token(config, lengths, "encode") == layer
    after_attention = 2 * 4**2 + 4 * 4 * 16
    read = 0.15 * 6 / 8 + 1 / 8
    head = 0.15 * 6 / 8 * (2 * 4**2 + 2 * 4 * 10)
    expected = 3 * (layer - (1 - read) * after_attention + head)
    assert bench.flops_of_token(config, lengths, "stage1") == pytest.approx(expected)
    assert bench.flops_of_token(config, lengths, "stage2") == pytest.approx(3 * (layer - 7 / 8 * after_attention))
