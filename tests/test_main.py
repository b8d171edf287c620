import subprocess
import sys


def test_the_package_is_a_program(tmp_path):
    """So that torchrun, which starts a file or a module, has one to start where there is no checkout."""
    command = [sys.executable, "-m", "poolwise", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "stage=sentiment repr=cls,pooler,mean,cls_linear" in shown.stdout
    assert shown.stderr == ""
