import shutil
import subprocess
import threading
import time
from urllib.parse import quote

import pytest
import uvicorn
from starlette.testclient import TestClient

from poolwise.runs import read_record, write_record
from poolwise.serve import HOST, application, best_runs, main, verdicts_on
from poolwise.settings import UserError
from poolwise.trained import load

TEXT = "<b>Hardly</b> a failure & never dull."
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def classifiers(trained_run):
    return [load(trained_run(name)[0]) for name in ("cls", "pooler", "mean", "cls_linear")]


def test_the_page_asks_for_what_each_run_says(classifiers):
    with TestClient(application(classifiers), base_url=f"http://{HOST}") as client:
        assert "What each representation makes of a text" in client.get("/").text
        answer = client.post("/verdicts", content=TEXT.encode()).json()
        assert client.post("/verdicts", content=b"a" * 100_001).status_code == 413
    assert answer == verdicts_on(TEXT, classifiers)
    assert [each["representation"] for each in answer] == ["cls", "pooler", "mean", "cls_linear"]
    for each, classifier in zip(answer, classifiers, strict=True):
        (expected,) = classifier.predict([TEXT])
        assert (each["label"], each["probabilities"]) == (expected.label, expected.probabilities)


def test_a_page_under_another_name_is_not_answered(classifiers):
    with TestClient(application(classifiers), base_url="http://elsewhere.example") as client:
        assert client.get("/").status_code == 400


def test_of_each_representation_the_best_run_on_dev_is_shown(trained_run, tmp_path):
    folders = {trained_run(name)[0] for name in ("cls", "pooler")}
    assert set(best_runs(tmp_path / "runs")) == folders
    with pytest.raises(UserError, match="none of the finished runs has kept its classifier"):
        best_runs(tmp_path / "nowhere")


def test_runs_of_another_setting_are_not_beside_them(trained_run, tmp_path):
    """Their figures on dev say nothing of which is better."""
    runs = {name: trained_run(name)[0] for name in ("cls", "pooler")}
    record = read_record(runs["pooler"])
    material = {**record["material"], "labels": {"per_class": 8}}
    write_record(runs["pooler"], {**record, "material": material, "started": "2000-01-01T00:00:00+00:00"})
    assert best_runs(tmp_path / "runs") == [runs["cls"]]


def test_a_run_without_a_classifier_is_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["serve", str(tmp_path)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "holds no trained classifier" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_verdicts_side_by_side(classifiers):
    server = uvicorn.Server(uvicorn.Config(application(classifiers), host=HOST, port=0, log_level="warning"))
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://{HOST}:{port}/?text={quote(TEXT)}"
        command = [str(BROWSER), "--headless", "--no-sandbox", "--virtual-time-budget=10000", "--dump-dom", url]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    finally:
        server.should_exit = True
        serving.join()
    for each in verdicts_on(TEXT, classifiers):
        assert f"<td>{each['representation']}<br><small>{each['run']}</small></td><td>{each['label']}</td>" in shown
        for name, probability in each["probabilities"].items():
            assert f"{100 * probability:.1f} % {name}" in shown
