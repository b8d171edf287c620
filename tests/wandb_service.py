"""A stand-in of the W&B service on the loopback interface: it takes what the real client sends, and keeps it.

It answers the operations that the client (0.31) needs for a run, for `wandb sync`, for a sweep, for reading runs and
their files, and for reports (wandb-workspaces 0.4.13), and refuses others.
"""

import base64
import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
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

    @property
    def state(self) -> str:
        """As W&B calls it."""
        return "running" if self.exit_code is None else "failed" if self.exit_code else "finished"


class WandbService(ThreadingHTTPServer):
    """Keeps runs and reports by their ids, for one account.

    Attributes:
        choices: parameters of a sweep's runs; each is handed to the agent that asks for it.
        projects: names of those that there are.
        views: the variables with which each report was saved last.
        operations: the names of all that was asked.
        refused: names of operations that are not answered, beside the unknown ones.
        before_answer: called before what is sent is taken; a test has it wait.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, ReceivedRun] = {}
        self.sweep: dict[str, Any] = {}
        self.choices: list[dict[str, Any]] = []
        self.received: list[bytes] = []
        self.projects: list[str] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.operations: list[str] = []
        self.refused: set[str] = set()
        self.before_answer: Callable[[], object] = lambda: None

    def operation(self, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a GraphQL operation with its variables; None for one that is not known here."""
        self.operations.append(name)
        if name in self.refused:
            return None
        if name in ("Runs", "RunFiles", "ProjectViews", "ProjectInternalId"):
            return self._within_project(name, given)
        if name in ("GetProjects", "CreateProject", "upsertView", "SpecificReport"):
            return self._for_reports(name, given)
        project = {"id": "1", "name": given.get("project"), "entity": {"id": "1", "name": ENTITY}}
        if name in ("Viewer", "GetDefaultEntity"):
            return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            run = self.runs.get(given["name"])
            return {"model": None if run is None else {**project, "bucket": self._resumed(given["name"], run)}}
        if name == "UpsertBucket":
            run = self.runs.setdefault(given["name"], ReceivedRun())
            self._make_project(given["project"])
            run.facts |= {key: value for key, value in given.items() if value is not None and key != "config"}
            run.config = {key: item["value"] for key, item in json.loads(given["config"]).items() if key != "_wandb"}
            bucket = {"id": "1", "name": given["name"], "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            names = given["files"]
            urls = [{"name": file, "uploadUrl": self._file_url(given["run"], file)} for file in names]
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

    def _resumed(self, name: str, run: ReceivedRun) -> dict[str, Any]:
        """What a client that goes on with a run asks of it."""
        return {
            "id": "1",
            "name": name,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.facts["displayName"],
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": [],
            "notes": None,
            "wandbConfig": "{}",
        }

    def _make_project(self, name: str) -> None:
        if name not in self.projects:
            self.projects.append(name)

    def _within_project(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answers to what is asked of one project; null if there is no such project."""
        entity = given.get("entity") or given["entityName"]
        project = given.get("project") or given["projectName"]
        if entity != ENTITY or project not in self.projects:
            return {"project": None}
        found: dict[str, Any] = {"id": "1", "internalId": "1"}
        if name == "Runs":
            wanted = json.loads(given["filters"])
            assert wanted.keys() <= {"state"}
            runs = {
                run: received
                for run, received in self.runs.items()
                if received.facts["project"] == project and received.state == wanted.get("state", received.state)
            }
            found |= {"runCount": len(runs), "runs": connection([self._run(*item) for item in runs.items()])}
        elif name == "RunFiles":
            files = {
                file: content
                for file, content in self.runs[given["name"]].files.items()
                if not given["fileNames"] or file in given["fileNames"]
            }
            nodes = [
                {"id": file, "name": file, "sizeBytes": len(content), "url": self._file_url(given["name"], file)}
                for file, content in files.items()
            ]
            found["run"] = {"fileCount": len(nodes), "files": connection(nodes)}
        elif name == "ProjectViews":
            found["allViews"] = connection([{"id": view, "spec": "{}"} for view in self.views])
        return {"project": found}

    def _run(self, run: str, received: ReceivedRun) -> dict[str, Any]:
        config = {key: {"value": value} for key, value in received.config.items()}
        names = {"displayName": received.facts["displayName"], "group": received.facts["groupName"]}
        job = {"jobType": received.facts["jobType"], "state": received.state}
        return {"id": run, "name": run, "projectId": "1", **names, **job, "config": json.dumps(config)}

    def _file_url(self, run: str, file: str) -> str:
        return f"{self.url}{UPLOADS}{run}/{file}"

    def _for_reports(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name == "GetProjects":
            facts = {"id": "1", "entityName": ENTITY, "createdAt": "", "isBenchmark": False, "user": None}
            return {"models": connection([{**facts, "name": project} for project in self.projects])}
        if name == "CreateProject":
            self._make_project(given["input"]["name"])
            return {"result": {"project": None, "model": None, "inserted": True}}
        if name == "SpecificReport":
            return {"view": self._view(given["reportId"])}
        view = given["id"] or base64.b64encode(f"View:{len(self.views) + 1}".encode()).decode().rstrip("=")
        self.views[view] = given
        return {"upsertView": {"view": self._view(view), "inserted": given["id"] is None}}

    def _view(self, view: str) -> dict[str, Any]:
        saved = self.views[view]
        project = {"id": "1", "name": saved["projectName"], "entityName": saved["entityName"]}
        return {"id": view, "project": project, **{key: saved[key] for key in ("name", "displayName", "spec")}}

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


def connection(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """A list as GraphQL gives it, all on one page."""
    edges = [{"node": node, "cursor": str(number)} for number, node in enumerate(nodes)]
    return {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}


class _Handler(BaseHTTPRequestHandler):
    server: WandbService
    timeout = 30

    def do_GET(self) -> None:
        if self.path.startswith(UPLOADS):
            run, _, file = self.path.removeprefix(UPLOADS).partition("/")
            self._send(self.server.runs[run].files[file])
        else:
            self._answer({})

    def do_PUT(self) -> None:
        self.server.before_answer()
        run, _, file = self.path.removeprefix(UPLOADS).partition("/")
        self.server.runs[run].files[file] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        self.server.before_answer()
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
        self._send(json.dumps(content).encode())

    def _send(self, body: bytes) -> None:
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
