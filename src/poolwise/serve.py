"""`python -m poolwise.serve [RUN ...]`: a local page with the verdicts of several trained runs side by side."""

import argparse
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from poolwise import machine
from poolwise.app import quieten
from poolwise.command_line import program
from poolwise.compare.records import read_runs
from poolwise.runs import MODEL_FOLDER
from poolwise.settings import UserError, leave

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from poolwise.trained import TrainedClassifier

HOST = "127.0.0.1"
"""This machine alone: the page asks nobody who they are."""
LONGEST_TEXT = 100_000
"""Characters that one request may hold."""


def main() -> None:
    """Load the runs, and serve the page until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.serve", description=__doc__)
    parser.add_argument(
        "run",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="folders of finished stage-2 runs (of each representation the run that is best on dev)",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs (runs)")
    parser.add_argument("--port", type=int, default=8000, help="where the page is served on this machine (8000)")
    arguments = parser.parse_args()
    machine.prepare()
    try:
        serve(arguments.run or best_runs(arguments.runs), arguments.port)
    except UserError as error:
        leave(error)


def best_runs(runs: Path) -> list[Path]:
    """Of each representation the run that is best on dev, of one setting: data, model, protocol, number of labels.

    That of the run that was started last.

    Raises:
        UserError: no run is finished, or none of them has kept its classifier.
    """
    table = read_runs(runs, "sentiment")
    if not table.empty:
        table = table[[(Path(folder) / MODEL_FOLDER).is_dir() for folder in table["folder"]]]
    if table.empty:
        nothing = f"{runs}/sentiment: none of the finished runs has kept its classifier"
        raise UserError(f"{nothing}; {program()[-1]} makes one")
    table = table[table["setting"] == table.sort_values("started")["setting"].iloc[-1]]
    best = table.sort_values("dev/macro_f1", ascending=False).drop_duplicates("repr")
    return [Path(folder) for folder in best["folder"]]


def serve(runs: Sequence[Path], port: int) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: a run holds no classifier, the extra `serve` is not installed, or the port is taken.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise UserError("the page needs starlette and uvicorn: pip install 'poolwise[serve]'") from error
    from poolwise.trained import load

    quieten()
    machine.keep_to_quota()
    page = application([load(run) for run in runs])
    print(f"http://{HOST}:{port} shows {len(runs)} runs; Ctrl-C ends it", flush=True)
    server = uvicorn.Server(uvicorn.Config(page, host=HOST, port=port, log_level="warning"))
    try:
        server.run()
    except SystemExit as error:
        raise UserError(f"--port={port}: it cannot be served there; is it taken?") from error


def application(classifiers: Sequence["TrainedClassifier"]) -> "Starlette":
    """The page, and the verdicts that it asks for."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    html = files("poolwise").joinpath("serve.html").read_text(encoding="utf-8")

    async def page(_: Request) -> Response:
        return HTMLResponse(html)

    async def verdicts(request: Request) -> Response:
        body = await request.body()
        if len(body) > LONGEST_TEXT:
            return JSONResponse({"error": f"at most {LONGEST_TEXT:,} bytes at a time"}, status_code=413)
        return JSONResponse(verdicts_on(body.decode("utf-8", errors="replace"), classifiers))

    return Starlette(
        routes=[Route("/", page), Route("/verdicts", verdicts, methods=["POST"])],
        # A page elsewhere that has its own name point to this machine is not answered.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def verdicts_on(text: str, classifiers: Sequence["TrainedClassifier"]) -> list[dict[str, object]]:
    """What each classifier says of a text: its representation, its run, the label, and each class's probability."""
    found: list[dict[str, object]] = []
    for each in classifiers:
        (prediction,) = each.predict([text])
        found.append(
            {
                "representation": each.name,
                "run": each.folder.name,
                "label": prediction.label,
                "probabilities": prediction.probabilities,
            }
        )
    return found


if __name__ == "__main__":
    main()
