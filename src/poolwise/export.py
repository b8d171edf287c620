"""`python -m poolwise.export RUN --to FORM`: give a trained run to other programs, which must compute the same."""

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError
from scipy.special import softmax

from poolwise.app import quieten
from poolwise.card import classifier_card
from poolwise.checkpoints import write_sums
from poolwise.durable import draft_folder_of
from poolwise.exports import classification, encoder, graph, sentence_vectors
from poolwise.settings import LongTexts, UserError, leave
from poolwise.trained import TrainedClassifier, load
from poolwise.words import first_line


def checked_texts(length: int) -> list[str]:
    """What the check reads: short, empty, of another script, of unknown pieces, longer than `length` word pieces."""
    return [
        "A lovely film, although the ending drags.",
        "Dull.",
        "",
        "I would buy this again without a second thought, and so would my brother: the battery lasts two days!",
        "这家酒店的房间很大,服务也不错。 🙂",
        " ".join(f"part {number} is good," for number in range(length)),
    ]


MARK = "poolwise_export.json"
"""Lies in each export: only a folder that holds it is ever replaced."""


@dataclass(frozen=True)
class Form:
    """One thing to export to.

    Attributes:
        write: writes it into an empty folder.
        expected: what the program that it is for should compute of the texts.
        tolerance: by how much any number may differ.
        use: how it is used: lines of Python that run as they are, with `{folder}` in the place of its folder.
    """

    write: Callable[[TrainedClassifier, Path], None]
    expected: Callable[[TrainedClassifier, list[str]], ndarray]
    tolerance: float
    use: str


def probabilities(trained: TrainedClassifier, texts: list[str]) -> Float[ndarray, "N C"]:
    """Calibrated probabilities."""
    found: ndarray = softmax(trained.logits(texts) / trained.notes.temperature, axis=1)
    return found


def logits_and_vectors(trained: TrainedClassifier, texts: list[str]) -> Float[ndarray, "N columns"]:
    """Calibrated logits and vectors side by side, twice: of texts in a batch and alone, which makes no difference."""
    return np.hstack([trained.logits(texts) / trained.notes.temperature, trained.encode(texts)] * 2)


FORMS = {
    "transformers": Form(
        classification.write,
        probabilities,
        1e-4,
        """from transformers import pipeline

classify = pipeline("text-classification", model={folder})
print(classify(["a text"], truncation=True))""",
    ),
    "sentence-transformers": Form(
        sentence_vectors.write,
        lambda trained, texts: trained.encode(texts),
        1e-5,
        """from sentence_transformers import SentenceTransformer

print(SentenceTransformer({folder}).encode(["a text"]))""",
    ),
    "onnx": Form(
        graph.write,
        logits_and_vectors,
        1e-4,
        """from onnxruntime import InferenceSession
from transformers import AutoTokenizer

folder = {folder}
tokens = AutoTokenizer.from_pretrained(folder)(["a text"], padding=True, truncation=True, return_tensors="np")
logits, vectors = InferenceSession(f"{{folder}}/model.onnx").run(["logits", "vectors"], dict(tokens))
print(logits, vectors)""",
    ),
    "encoder": Form(
        encoder.write,
        lambda trained, texts: np.hstack([trained.encode(texts, repr=name) for name in encoder.readings(trained)]),
        1e-5,
        """from transformers import AutoModel, AutoTokenizer

folder = {folder}
tokens = AutoTokenizer.from_pretrained(folder)(["a text"], padding=True, truncation=True, return_tensors="pt")
print(AutoModel.from_pretrained(folder)(**tokens).last_hidden_state)""",
    ),
}


def main() -> None:
    """Export, check, and say how it is used."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished stage-2 run")
    parser.add_argument("--to", required=True, choices=FORMS, help="which program is to read it")
    parser.add_argument("--folder", type=Path, help="where to write (RUN/exports/FORM); one that is there is replaced")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to the hub, where you are logged in; privately")
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to see")
    arguments = parser.parse_args()
    quieten()
    try:
        folder = arguments.folder or arguments.run / "exports" / arguments.to
        if arguments.folder is None and not folder.resolve().is_relative_to(arguments.run.resolve()):
            raise UserError(f"{folder.parent} is a link that leads out of the run; remove it, or give --folder")
        difference = export(arguments.run, arguments.to, folder)
        print(f"written: {folder}")
        print(f"checked in another process: differs by at most {difference:.1e} from the run itself")
        print(f"use it:\n\n{use(arguments.to, folder)}\n")
        if arguments.to == "encoder" and encoder.has_random_pooler(folder):
            print(f"note:    {encoder.RANDOM_POOLER}")
        if arguments.push:
            print(f"pushed:  {push(folder, arguments.push, arguments.public)}")
    except UserError as error:
        leave(error)


def use(to: str, folder: Path | str) -> str:
    """Lines of Python that read an export of this form."""
    return FORMS[to].use.format(folder=json.dumps(str(folder), ensure_ascii=False))


def export(run: Path, to: str, folder: Path) -> float:
    """Export a run so that the folder appears whole and checked, or not at all.

    Args:
        run: its folder.
        to: the name of a form.
        folder: where; an export that is there is replaced.

    Returns:
        By how much any number of the check differs.

    Raises:
        UserError: there is no classifier, no such form of it, or the export computes something else.
    """
    trained, form = load(run), FORMS[to]
    if not isinstance(trained.record.get("metrics"), dict):
        raise UserError(f"{run}: its record is gone or broken, and a model card is made of it; run its command again")
    if folder.is_symlink() or (folder.exists() and not is_export(folder)):
        raise UserError(f"--folder={folder}: there is something else there; name another one")
    length = trained.notes.max_length
    expected = form.expected(reading_first_pieces(trained), checked_texts(length))
    card = classifier_card(trained, use(to, "FOLDER"), to)
    try:
        with draft_folder_of(folder) as draft:
            form.write(trained, draft)
            (draft / "README.md").write_text(card, encoding="utf-8")
            difference = float(np.abs(np.array(computed(to, draft, length)) - expected).max())
            if not difference <= form.tolerance:
                raise UserError(
                    f"--to {to}: what was written differs by {difference:.1e} from the run, more than "
                    f"{form.tolerance:.0e}"
                )
            (draft / MARK).write_text(json.dumps({"form": to, "run": trained.record["key"]}) + "\n")
            for place in (draft, *filter(Path.is_dir, draft.rglob("*"))):
                write_sums(place)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be written: {first_line(error)}") from error
    return difference


def reading_first_pieces(trained: TrainedClassifier) -> TrainedClassifier:
    """The same on the CPU, where other programs are checked, and cutting long texts as these do."""
    first = copy.copy(trained)
    first.device, first.classifier = "cpu", trained.classifier.cpu()
    first.notes = replace(trained.notes, long_texts=asdict(LongTexts()))
    return first


def is_export(folder: Path) -> bool:
    """Whether a folder is empty, or what an earlier export wrote, so that it may be replaced."""
    return folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))


def computed(to: str, folder: Path, length: int) -> Any:
    """What another process computes of the checked texts from the export, `length` word pieces of each.

    Raises:
        UserError: it cannot read it.
    """
    done = subprocess.run(
        [sys.executable, "-m", "poolwise.exports.check", to, str(folder), str(length)],
        input=json.dumps(checked_texts(length)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}, as one that is killed"]
        raise UserError(f"--to {to}: what was written cannot be read back ({said[-1]})")
    return json.loads(done.stdout.splitlines()[-1])


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload a folder to the hub, in place of what is in that repository; returns where it lies, and who sees it.

    Raises:
        UserError: nobody is logged in, or the hub does not take it.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        raise UserError(f"--push={name}: nobody is logged in to the hub; log in with: hf auth login")
    try:
        api = HfApi()
        place = api.create_repo(name, exist_ok=True, private=not public)
        api.upload_folder(repo_id=name, folder_path=folder, delete_patterns="*")
        seen = "by you alone" if api.repo_info(name).private else "by everybody"
    except (HTTPError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"--push={name}: the hub does not take it ({first_line(error)})") from error
    return f"{place}, seen {seen}"


if __name__ == "__main__":
    main()
