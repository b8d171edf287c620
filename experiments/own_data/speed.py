"""Reading and tokenising, process CPU seconds of one thread: `datasets` and its `map`, and poolwise's own path.

    python experiments/own_data/speed.py FILE.tsv [FILE.tsv ...] > experiments/own_data/speed.csv

Each file has the columns `text` and `label`, by tabs and unquoted; its texts are read in each form that both know. The
two ways take turns in one process, each from nothing: no cache of either is there. Reading is to the end of what comes
before tokens: rows in Arrow files. Both give the same ids, which is checked.
"""

import csv
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import datasets
import numpy as np
import pandas
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from poolwise import checkpoints
from poolwise.app import composed, register_schemas, typed_settings
from poolwise.data.files import load_files
from poolwise.data.tokens import tokenise
from poolwise.settings import FilesData

LENGTH, TURNS = 128, 5


BUILDERS: dict[str, dict[str, Any]] = {
    ".tsv": {"path": "csv", "sep": "\t", "quoting": 3},
    ".csv": {"path": "csv"},
    ".jsonl": {"path": "json"},
    ".parquet": {"path": "parquet"},
    ".txt": {"path": "text"},
    ".json": {"path": "json"},
    ".csv.gz": {"path": "csv"},
}
"""How `datasets` is asked for each kind of file."""


def write(rows: pandas.DataFrame, file: Path) -> None:
    """The texts in the form that a name says."""
    if file.name.endswith(".csv.gz"):
        rows.to_csv(file, index=False, compression="gzip")
    elif file.suffix == ".json":
        rows.to_json(file, orient="records")
    elif file.suffix == ".tsv":
        rows.to_csv(file, sep="\t", quoting=csv.QUOTE_NONE, quotechar=None, index=False)
    elif file.suffix == ".csv":
        rows.to_csv(file, index=False)
    elif file.suffix == ".jsonl":
        rows.to_json(file, orient="records", lines=True)
    elif file.suffix == ".parquet":
        rows.to_parquet(file, index=False)
    else:
        file.write_text("".join(f"{text}\n" for text in rows["text"]), encoding="utf-8")


def with_datasets(file: str, tokenizer: PreTrainedTokenizerBase, cache: Path) -> tuple[float, np.ndarray]:
    """When reading was done, and all ids, by `load_dataset` and `map`."""
    form = "".join(Path(file).suffixes)
    rows = datasets.load_dataset(data_files=file, split="train", cache_dir=str(cache), **BUILDERS[form])
    read = time.process_time()
    tokens = rows.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=LENGTH),
        batched=True,
        remove_columns=rows.column_names,
    )
    return read, tokens.with_format("arrow")[:]["input_ids"].combine_chunks().flatten().to_numpy()


def with_poolwise(data: FilesData, tokenizer: PreTrainedTokenizerBase, cache: Path) -> tuple[float, np.ndarray]:
    """When reading was done, and all ids, as a run reads the texts of stage 1."""
    rows = load_files(data, cache).text["train"]
    read = time.process_time()
    return read, tokenise(rows, tokenizer, LENGTH, cache / "tokens").ids


def compare(file: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[float, float]]:
    """Median CPU seconds of either way, of reading and of tokenising."""
    data = typed_settings(composed(["data=files", f"data.text={file}", f"data.text_dev={file}"])).data
    ways = {"datasets": (with_datasets, file), "poolwise": (with_poolwise, data)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(TURNS):
        ids = []
        for name, (way, texts) in ways.items():
            with tempfile.TemporaryDirectory() as cache:
                start = time.process_time()
                read, found = way(texts, tokenizer, Path(cache))
                seconds[name].append((read - start, time.process_time() - read))
                ids.append(found)
        assert np.array_equal(*ids)
    reading, tokenising = ({name: median(pair[at] for pair in seconds[name]) for name in ways} for at in (0, 1))
    return {name: (reading[name], tokenising[name]) for name in ways}


def main() -> None:
    """Time both ways on each file in each form."""
    datasets.disable_progress_bars()
    register_schemas()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.locate(typed_settings(composed(["model=minilm"])).model))
    print("data,form,texts,datasets_read_s,poolwise_read_s,datasets_tokenise_s,poolwise_tokenise_s,ratio")
    for given in sys.argv[1:]:
        rows = pandas.read_csv(given, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
        for form in BUILDERS:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"texts{form}"
                write(rows, file)
                found = compare(str(file), tokenizer)
            theirs, ours = found["datasets"], found["poolwise"]
            parts = ",".join(f"{theirs[at]:.3f},{ours[at]:.3f}" for at in (0, 1))
            name = Path(given).parent.name
            print(f"{name},{form},{len(rows)},{parts},{sum(theirs) / sum(ours):.2f}", flush=True)


if __name__ == "__main__":
    main()
