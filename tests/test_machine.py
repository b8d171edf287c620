import os
import subprocess
import sys

import torch

from poolwise import machine


def test_prepare_sets_what_is_not_set_already(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    machine.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_small_models_get_one_thread_and_larger_ones_all(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "_threads_at_first", lambda: 3)
    counts = []
    for parameters in (200_000, 20_000_000):
        machine.fit_threads(parameters)
        counts.append(torch.get_num_threads())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine.fit_threads(200_000)
    counts.append(torch.get_num_threads())
    torch.set_num_threads(before)
    assert counts == [1, 3, 3]


def test_it_comes_before_torch():
    script = "import sys; import poolwise.app, poolwise.machine; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
