import pytest

from helpers import write_run


@pytest.fixture
def runs(tmp_path):
    """`mean` is wrong on 10 examples a seed, `pooler` on 30 or so, `cls` on as many as `mean` but others."""
    for seed in (1, 2, 3):
        write_run(tmp_path, "mean", seed, list(range(10)), dev=0.9 + seed / 1000)
        write_run(tmp_path, "pooler", seed, list(range(29 + seed)), dev=0.8, status="random")
        write_run(tmp_path, "cls", seed, list(range(100, 108 + seed)), dev=0.85)
    return tmp_path
