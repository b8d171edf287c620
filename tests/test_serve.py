import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import uvicorn
from starlette.testclient import TestClient

from poolwise.runs import read_record, write_record
from poolwise.serve import HOST, LONGEST_TEXT, application, best_runs, main, verdicts_on
from poolwise.settings import UserError
from poolwise.trained import load

TEXT = "<b>Hardly</b> a failure & never dull."
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


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


@pytest.fixture
def url(classifiers) -> Iterator[str]:
    """Where the page is served."""
    server = uvicorn.Server(uvicorn.Config(application(classifiers), host=HOST, port=0, log_level="warning"))
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        serving.join()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_verdicts_side_by_side(classifiers, url):
    command = [str(BROWSER), "--headless", "--no-sandbox", "--virtual-time-budget=10000", "--dump-dom"]
    asked = [*command, f"{url}?text={quote(TEXT)}"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120).stdout
    for each in verdicts_on(TEXT, classifiers):
        assert f"<td>{each['representation']}<br><small>{each['run']}</small></td><td>{each['label']}</td>" in shown
        for name, probability in each["probabilities"].items():
            assert f"{100 * probability:.1f} % {name}" in shown


@contextmanager
def browser(folder: Path) -> Iterator[int]:
    """A headless Chromium; the port of its DevTools."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    with subprocess.Popen([*command, "about:blank"], stderr=subprocess.DEVNULL) as running:
        try:
            told = folder / "DevToolsActivePort"
            while not (told.exists() and "\n" in told.read_text()):
                assert running.poll() is None
                time.sleep(0.05)
            yield int(told.read_text().split()[0])
        finally:
            running.terminate()


class Page:
    """The open page of a browser, by the Chrome DevTools Protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.number = 0

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while (answer := await self.socket.receive_json()).get("id") != self.number:
            pass
        return answer["result"]

    async def once(self, condition: str, value: str = "null") -> Any:
        """The value of an expression of JavaScript as soon as another one is true."""
        look = f"() => {{ const look = () => {condition} ? done({value}) : setTimeout(look, 50); look(); }}"
        waiting = f"new Promise(done => ({look})())"
        found = await self.do("Runtime.evaluate", expression=waiting, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def type_and_click(self, text: str) -> None:
        """Replace what is typed, and press the button."""
        await self.once("true", "(document.getElementById('text').select(), null)")
        await self.do("Input.insertText", text=text)
        await self.once("true", "(document.querySelector('button').click(), null)")


ROWS = "[...document.querySelectorAll('#verdicts tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
PROBLEM = "document.getElementById('problem').textContent"


async def typed_and_clicked(port: int, url: str) -> tuple[list[list[str]], list[str]]:
    """The rows that a text brings, and what is told of a longer one than may be, and after it."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{HOST}:{port}/json/list") as answer:
            (target,) = (each for each in await answer.json() if each["type"] == "page")
        async with session.ws_connect(target["webSocketDebuggerUrl"]) as socket:
            page = Page(socket)
            await page.do("Page.navigate", url=url)
            await page.once("document.readyState === 'complete' && document.getElementById('text')")
            await page.type_and_click(TEXT)
            rows = await page.once("document.querySelector('#verdicts:not([hidden]) tbody tr')", ROWS)
            await page.type_and_click("a" * (LONGEST_TEXT + 1))
            problems = [await page.once(PROBLEM, PROBLEM)]
            await page.type_and_click(TEXT)
            problems.append(await page.once(f"{PROBLEM} === ''", PROBLEM))
            return rows, problems


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_person_types_a_text_and_presses_the_button(classifiers, url, tmp_path):
    with browser(tmp_path / "browser") as port:
        rows, problems = asyncio.run(asyncio.wait_for(typed_and_clicked(port, url), 120))
    assert rows == [
        [
            f"{each['representation']}\n{each['run']}",
            each["label"],
            "\n".join(f" {100 * value:.1f} % {name}" for name, value in each["probabilities"].items()),
        ]
        for each in verdicts_on(TEXT, classifiers)
    ]
    assert problems == [f"No verdict: at most {LONGEST_TEXT:,} bytes at a time", ""]
