"""The short model card that lies in each export."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from jaxtyping import Int
from numpy import ndarray
from scipy.special import log_softmax
from scipy.stats import binomtest

from poolwise.compare.tables import markdown_text
from poolwise.runs import PREDICTIONS_FILE, RunIdentity

if TYPE_CHECKING:
    from poolwise.trained import TrainedClassifier

LOADING = """```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER")  # no missing key: the pooler is in the file
vector = model(**tokenizer("a text", return_tensors="pt")).pooler_output
```"""
LOADING_HIDDEN_POOLER = """```python
from poolwise.encoder import load_encoder
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model, pooler_status = load_encoder("FOLDER")
vector = model.eval()(**tokenizer("a text", return_tensors="pt")).pooler_output
```"""

POOLER_IN_WORDS = {
    "trained": "was trained in this run",
    "collapsed": "was trained in this run and has collapsed: its outputs hardly tell texts apart",
    "random": "was drawn at random, and no loss trained it",
    "stale": "is stale: the encoder moved under it, and in most of these steps no loss trained it",
    "as released": "comes from the starting checkpoint, under an encoder that did not move",
}

HEAD_AT_RANDOM = """
Its MLM head was drawn at random, as the starting checkpoint had none, and no MLM loss trained it: it fills no masks."""

GEOMETRY_IN_WORDS = {
    "effective_rank": "effective rank (1 to the vector's size)",
    "mean_cosine": "mean cosine of two texts (1: all parallel)",
    "alignment": "alignment of two maskings of a text (0 to 4; 0: equal)",
    "uniformity": "uniformity (-8 to 0; 0: all equal)",
    "saturated_share": "share of units beyond 0.99",
}


def model_card(
    identity: RunIdentity, provenance: dict[str, Any], metrics: dict[str, float], config: Mapping[str, Any]
) -> str:
    """Markdown: what was trained on what, the state of the pooler, dev figures, how to load it.

    Args:
        identity: of the stage-1 run.
        provenance: what it noted of each part.
        metrics: its figures.
        config: its settings; read are those of data and model.
    """
    settings = identity.flat
    data_rows = data_provenance(config, identity.material.get("text", {}), {})
    rows = "\n".join(
        f"| {name} | {part['origin']} | {', '.join(part['losses']) or 'none'} "
        f"| {part['mean_gradient_norm']:.3g} | {part['distance_moved']:.3g} |"
        for name, part in provenance["parts"].items()
    )
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items() if name.startswith("dev/"))
    pooler, cls = provenance["pooler_geometry"], provenance["cls_geometry"]
    geometry = "\n".join(
        f"| {words} | {pooler[name]:.3f} | " + (f"{cls[name]:.3f} |" if name in cls else "|")
        for name, words in GEOMETRY_IN_WORDS.items()
    )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in provenance["loss_shares"].items())
    warning = f"\n**Warning:** {provenance['warning']}.\n" if provenance["warning"] else ""
    shares = (
        f"Share of each weighted loss in their sum, mean over probes: {shares}." if shares else "No loss was trained."
    )
    hidden = provenance.get("hidden_pooler")
    loading = f"**{hidden}:**\n\n{LOADING_HIDDEN_POOLER}" if hidden else LOADING
    done = "masked language modelling" if "mlm" in provenance["loss_shares"] else "training its pooler alone"
    done = done if provenance["loss_shares"] else "no training"
    head = "" if fills_masks(provenance) else HEAD_AT_RANDOM
    return f"""---
library_name: transformers
tags: [poolwise, {"" if head else "fill-mask, "}feature-extraction]
{metadata(config)}---
# {identity.name}

`{settings["model"]}` after {done} on `{settings["data"]}` with the pooler objective
`{settings["objective"]}`, seed {settings["seed"]}. Its pooler {POOLER_IN_WORDS[provenance["pooler_status"]]}.{head}
{leak_in_words(provenance)}{warning}
{loading}

| part | weights came from | losses that reached it | mean gradient norm | distance moved (L2) |
|---|---|---|---|---|
{rows}

{shares}

On the dev texts:

| dev figure | value |
|---|---|
{figures}

How the vectors of {pooler["texts"]:g} dev texts lie:

| | the pooler's outputs | raw cls |
|---|---|---|
{geometry}

| provenance | |
|---|---|
{table_rows({**data_rows, "run": identity.key[:8]})}
"""


def metadata(config: Mapping[str, Any]) -> str:
    """Lines of YAML that the hub reads: model, data and language, as far as a hub name or the demo says them."""
    data, model = config.get("data", {}), config.get("model", {})
    rows: dict[str, Any] = {}
    if model.get("source") == "pretrained" and is_hub_name(model.get("path")):
        rows["base_model"] = model["path"]
    if data.get("source") == "hub":
        rows["datasets"] = [data["path"]]
    if data.get("source") == "demo":
        rows["language"] = "en"
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in rows.items())


def is_hub_name(path: Any) -> bool:
    """Whether a model's path is `OWNER/NAME`, and no folder here."""
    return isinstance(path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) is not None and not Path(path).exists()


def data_provenance(
    config: Mapping[str, Any], hashes: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]]
) -> dict[str, str]:
    """What was read, for `table_rows`: the names of files without their folders, or the hub path, and by split more.

    Args:
        config: the run's settings.
        hashes: SHA-256 of the texts, and labels, by split; of a stream something else, which is left out.
        counts: texts of each class by split.
    """
    data = config.get("data", {})
    given = {split: data.get(split) for split in ("text", "text_dev", "train", "dev", "test")}
    files = {split: Path(name).name for split, name in given.items() if isinstance(name, str)}
    of_hub = f"hub: {data.get('path')}"
    place = {"hub": of_hub, "files": _listed(files), "demo": "generated reviews"}.get(data.get("source", ""), "")
    return {
        "data": place,
        "content (SHA-256, 16 digits)": _listed({split: h[:16] for split, h in hashes.items() if isinstance(h, str)}),
        "classes": "; ".join(f"{split}: {_listed(each, ',')}" for split, each in counts.items()),
    }


def _listed(values: Mapping[str, Any], form: str = "") -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def table_rows(rows: Mapping[str, Any]) -> str:
    """Rows of a Markdown table; what is not known is left out."""
    return "\n".join(
        f"| {name} | {cell} |"
        for name, value in rows.items()
        if value not in (None, "") and (cell := in_one_line(str(value)).replace("|", "\\|"))
    )


def fills_masks(provenance: dict[str, Any]) -> bool:
    """Whether an MLM loss trained the MLM head, in this run or before it."""
    drawn = provenance["parts"]["mlm_head"]["origin"].startswith("fresh")
    return not drawn or "mlm" in provenance["loss_shares"]


def leak_in_words(provenance: dict[str, Any]) -> str:
    """A warning for the reader of an encoder that learned from labels; empty for others."""
    names = [name for name, notes in provenance["objectives"].items() if notes["reads_labels"]]
    warning = (
        f"\n**The objective {', '.join(names)} learned from labels that tell about sentiment: compare this encoder\n"
        "with none that saw text alone.**\n"
    )
    return warning if names else ""


LIBRARIES = {
    "transformers": ("transformers", "text-classification"),
    "sentence-transformers": ("sentence-transformers", "feature-extraction"),
    "onnx": ("onnx", "text-classification"),
    "encoder": ("transformers", "feature-extraction"),
}
"""Library and task of each form of an export, as the hub calls them."""


def classifier_card(trained: "TrainedClassifier", use: str, form: str) -> str:
    """Markdown for an exported run: what it is, test figures with intervals, where it came from, its limits.

    Args:
        trained: the run.
        use: how the export is used, lines of Python.
        form: of the export, a key of `LIBRARIES`.
    """
    record, notes = trained.record, trained.notes
    library, task = LIBRARIES[form]
    classifies = task == "text-classification"
    metrics = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    names = ", ".join(in_one_line(name) for name in notes.label_names)
    what = "Classifies texts into" if classifies else "The encoder, without its head, of a classifier into"
    intervals = intervals_of(trained)
    figures = classifier_figures(trained, intervals) if classifies else vector_figures(metrics, intervals)
    pooler = POOLER_OF_RUN.format(record["pooler_status"]) if notes.representation["name"] == "pooler" else ""
    last_four = form == "sentence-transformers" and notes.representation["name"] == "cls_last4"
    seen = record.get("test_texts_in_stage1")
    saw = "is not known" if seen is None else f"held {seen} of the test texts, without labels"
    return f"""---
library_name: {library}
pipeline_tag: {task}
tags: [poolwise]
{metadata(record["config"])}---
# {in_one_line(record["name"])}

{what} {names}, trained on `{record["data"]}` from
`{record["model"]}` ({record["protocol"]}; stage-1 objective: {record["objective"] or "none, not adapted"}).
Its sentence vector is `{trained.name}`: {in_one_line(notes.formula)}. {pooler}

```python
{use}
```

{figures}

| provenance | |
|---|---|
{provenance_rows(record)}

**Limits.** Texts are read up to {notes.max_length} word pieces{LONG_IN_WORDS[notes.long_texts["read"]]}. It knows the
language and the kind of text that it was trained on. What stage 1 read {saw}.{CLS_IN_TEXT if last_four else ""}

Made by poolwise {record["versions"]["poolwise"]}, run {record["key"][:8]}.
"""


def classifier_figures(trained: "TrainedClassifier", intervals: Mapping[str, str]) -> str:
    """The test figures of a classifier as a table, and what they are of."""
    record = trained.record
    metrics = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    rows = "\n".join(f"| {name} | {value:.4f} | {intervals.get(name, '')} |" for name, value in metrics.items())
    with_temperature = ", ".join(f"{name} {value:.4f}" for name, value in record.get("calibrated", {}).items())
    calibrated = f", and with it {with_temperature}" if with_temperature else ""
    return f"""| figure | value | 95 % interval |
|---|---|---|
{rows}

{ABOUT_INTERVALS}
Calibration error has none, as bootstrap samples overestimate it.
Probabilities are calibrated on dev by one temperature ({trained.notes.temperature:.3f}), which is part of the
weights here; loss and calibration error above are without it{calibrated}."""


def vector_figures(metrics: Mapping[str, float], intervals: Mapping[str, str]) -> str:
    """What a classifier made of the vectors of an export that is none itself."""
    names = [name for name in ("test/accuracy", "test/macro_f1") if name in metrics]
    found = ", ".join(
        f"{name} {metrics[name]:.4f}" + (f" ({intervals[name]})" if name in intervals else "") for name in names
    )
    return f"""This export classifies nothing. The classifier that it is from, whose head is not part of it, had
{found}. {ABOUT_INTERVALS if intervals else ""}"""


ABOUT_INTERVALS = """95 % intervals are over the draw of test texts (accuracy: Wilson; others: 1,000 bootstrap samples)
and say nothing of other seeds."""


def in_one_line(words: str) -> str:
    """Words of a file as text of Markdown: no tags, no lines of their own."""
    return markdown_text(" ".join(words.split()))


POOLER_OF_RUN = "The pooler was {} when stage 2 began."
LONG_IN_WORDS = {
    "head": "; what follows is not read",
    "tail": "; poolwise reads the last ones, and other programs the first",
    "head_tail": "; poolwise reads the first and the last ones, and other programs the first",
    "windows": " at a time; poolwise reads longer ones in windows, and other programs the first window",
}

CLS_IN_TEXT = """
A text that itself holds the tokenizer's special first token, such as [CLS], as a word has other vectors here than in
poolwise: those of three of the four layers are means over all such tokens."""


def provenance_rows(record: Mapping[str, Any]) -> str:
    """Rows of a Markdown table: texts by split, seeds, the encoder, the code; what is not known is left out."""
    texts = {split: figures["texts"] for split, figures in record.get("data_report", {}).get("stage2", {}).items()}
    return table_rows(
        {
            **data_provenance(record["config"], record["material"].get("labelled", {}), record.get("class_counts", {})),
            "labelled texts": _listed(texts, ","),
            "seed": record.get("seed"),
            "encoder": record.get("encoder"),
            "seed of stage 1": record.get("stage1_seed"),
            "key of the stage-1 run": record.get("stage1_key"),
            "encoder (SHA-256)": record["material"].get("weights"),
            "commit": record.get("git_commit"),
        }
    )


def intervals_of(trained: "TrainedClassifier") -> dict[str, str]:
    """95 % intervals of test figures over the draw of texts, from the run's predictions; none where they are gone.

    That of accuracy is Wilson's (1927), those of macro F1, balanced accuracy, Matthews correlation and loss the
    percentiles of the same 1,000 bootstrap samples (Efron 1979).
    """
    file = trained.folder / PREDICTIONS_FILE
    if not file.is_file():
        return {}
    rows = pandas.read_parquet(file, filters=[("split", "==", "test")])
    logits, labels = np.stack(rows["logits"].to_list()), rows["label"].to_numpy()
    answers = logits.argmax(axis=1)
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(rows)), labels]
    accuracy = binomtest(int((answers == labels).sum()), len(rows)).proportion_ci(method="wilson")
    draws = np.random.default_rng(0).integers(len(rows), size=(1000, len(rows)))
    figures: dict[str, list[float]] = {
        "test/macro_f1": [macro_f1(answers[draw], labels[draw]) for draw in draws],
        "test/balanced_accuracy": [balanced_accuracy(answers[draw], labels[draw]) for draw in draws],
        "test/matthews": [matthews(answers[draw], labels[draw]) for draw in draws],
        "test/loss": [float(losses[draw].mean()) for draw in draws],
    }
    bounds = {name: np.quantile(values, (0.025, 0.975)) for name, values in figures.items()}
    bounds["test/accuracy"] = np.array([accuracy.low, accuracy.high])
    return {name: f"{low:.4f} to {high:.4f}" for name, (low, high) in bounds.items()}


def balanced_accuracy(answers: Int[ndarray, " N"], labels: Int[ndarray, " N"]) -> float:
    """The mean recall over the classes that occur."""
    counts = np.bincount(labels)
    recall = np.bincount(labels[answers == labels], minlength=len(counts))[counts > 0] / counts[counts > 0]
    return float(recall.mean())


def matthews(answers: Int[ndarray, " N"], labels: Int[ndarray, " N"]) -> float:
    """The Matthews correlation, of several classes by Gorodkin (2004); 0 where answers or labels are all alike."""
    from torch import from_numpy
    from torchmetrics.functional.classification import multiclass_matthews_corrcoef

    if answers.min() == answers.max() or labels.min() == labels.max():
        return 0.0  # where torchmetrics 1.9 gives a small positive number
    classes = max(int(answers.max()), int(labels.max())) + 1
    found = multiclass_matthews_corrcoef(from_numpy(answers), from_numpy(labels), classes, validate_args=False)
    return float(found)


def macro_f1(answers: Int[ndarray, " N"], labels: Int[ndarray, " N"]) -> float:
    """The mean F1 of the classes that occur, as the run's own figure is."""
    from torch import from_numpy

    from poolwise.stages.sentiment import macro_f1_of

    return macro_f1_of(from_numpy(answers), from_numpy(labels), max(int(answers.max()), int(labels.max())) + 1)
