"""A stand-in of the W&B service on the loopback interface: it takes what the real client sends, and keeps it.

It answers the operations that the client (0.31) needs for a run, for `wandb sync` and for a sweep, and refuses others.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = "somebody"
KEY = 40 * "a"
LONGEST_SECONDS = 300
"""The service stops by itself after it."""
UPLOADS = "/uploads/"


@dataclass
class ReceivedRun:
    """What was sent of one run.

    Attributes:
        facts: the run's `displayName`, `groupName`, `jobType` and `sweep`, as in the operation that makes it.
        config: as it was last.
        history: a row a step.
        summary: as it was last.
        files: uploaded ones, by name.
        exit_code: None until the client says that the run is complete.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None


class WandbService(ThreadingHTTPServer):
    """Keeps runs by their id; hands each of `choices`, parameters of a sweep's run, to the agent that asks for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, ReceivedRun] = {}
        self.sweep: dict[str, Any] = {}
        self.choices: list[dict[str, Any]] = []
        self.received: list[bytes] = []

    def operation(self, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a GraphQL operation with its variables; None for one that is not known here."""
        project = {"id": "1", "name": given.get("project"), "entity": {"id": "1", "name": ENTITY}}
        if name == "Viewer":
            return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            return {"model": None}
        if name == "UpsertBucket":
            run = self.runs.setdefault(given["name"], ReceivedRun())
            run.facts |= {key: value for key, value in given.items() if value is not None and key != "config"}
            run.config = {key: item["value"] for key, item in json.loads(given["config"]).items() if key != "_wandb"}
            bucket = {"id": "1", "name": given["name"], "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            names = given["files"]
            urls = [{"name": file, "uploadUrl": f"{self.url}{UPLOADS}{given['run']}/{file}"} for file in names]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": urls}}
        if name == "UpsertSweep":
            self.sweep = yaml.safe_load(given["config"])
            project["name"] = given["projectName"]
            return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}
        if name == "SweepWithRuns":
            return {"project": {"sweep": {"config": yaml.safe_dump(self.sweep), "runs": {"edges": []}}}}
        if name == "CreateAgent":
            return {"createAgent": {"agent": {"id": "1"}}}
        if name == "Heartbeat":
            return {"agentHeartbeat": {"agent": {"id": "1"}, "commands": json.dumps(self._next_run())}}
        return None

    def _next_run(self) -> list[dict[str, Any]]:
        """The agent's next command: a run with the next choice of parameters, or nothing."""
        if not self.choices:
            return []
        arguments = {key: {"value": value} for key, value in self.choices.pop(0).items()}
        run = f"run{len(self.choices)}"
        return [{"type": "run", "run_id": run, "program": self.sweep["program"], "args": arguments}]

    def stream(self, run: ReceivedRun, sent: dict[str, Any]) -> None:
        """Take a post of a run's rows."""
        rows = sent.get("files", {})
        if "wandb-history.jsonl" in rows:
            start = rows["wandb-history.jsonl"]["offset"]
            run.history[start:] = map(json.loads, rows["wandb-history.jsonl"]["content"])
        if "wandb-summary.json" in rows:
            run.summary = json.loads(rows["wandb-summary.json"]["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


class _Handler(BaseHTTPRequestHandler):
    server: WandbService
    timeout = 30

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        run, _, file = self.path.removeprefix(UPLOADS).partition("/")
        self.server.runs[run].files[file] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            sent = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"]).group(1)
            found = self.server.operation(name, sent.get("variables") or {})
            self._answer({"data": found} if found else {"errors": [{"message": f"no {name} here"}]})
            return
        if self.path.endswith("/file_stream"):
            self.server.stream(self.server.runs[self.path.split("/")[-2]], json.loads(body))
        self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.received.append(body)
        return body

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def wandb_service() -> Iterator[WandbService]:
    """A service that runs until the end of the block, and `LONGEST_SECONDS` at most."""
    with WandbService() as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        end = threading.Timer(LONGEST_SECONDS, service.shutdown)
        end.daemon = True
        end.start()
        yield service
        end.cancel()
        service.shutdown()
