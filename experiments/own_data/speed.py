"""Reading and tokenising, process CPU seconds of one thread: `datasets` and its `map`, and poolwise's own path.

    python experiments/own_data/speed.py FILE.tsv [FILE.tsv ...]

Each file has the columns `text` and `label`, by tabs and unquoted. The two ways take turns in one process, each from
nothing: no cache of either is there. Both give the same ids, which is checked.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import datasets
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from poolwise import checkpoints
from poolwise.app import composed, register_schemas, typed_settings
from poolwise.data.files import load_files
from poolwise.data.tokens import tokenise
from poolwise.settings import FilesData

LENGTH, TURNS = 128, 5


def with_datasets(file: str, tokenizer: PreTrainedTokenizerBase, cache: Path) -> np.ndarray:
    """All ids, by `load_dataset` and `map`."""
    rows = datasets.load_dataset("csv", data_files=file, sep="\t", quoting=3, split="train", cache_dir=str(cache))
    tokens = rows.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=LENGTH),
        batched=True,
        remove_columns=rows.column_names,
    )
    return tokens.with_format("arrow")[:]["input_ids"].combine_chunks().flatten().to_numpy()


def with_poolwise(data: FilesData, tokenizer: PreTrainedTokenizerBase, cache: Path) -> np.ndarray:
    """All ids, as a run reads the texts of stage 1."""
    return tokenise(load_files(data, cache).text["train"], tokenizer, LENGTH, cache / "tokens").ids


def main() -> None:
    """Time both ways on each file."""
    datasets.disable_progress_bars()
    register_schemas()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.locate(typed_settings(composed(["model=minilm"])).model))
    print("file        texts   datasets   poolwise   ratio   (median CPU s of one thread, of", TURNS, "turns)")
    for file in sys.argv[1:]:
        seconds: dict[str, list[float]] = {"datasets": [], "poolwise": []}
        data = typed_settings(composed(["data=files", f"data.text={file}", f"data.text_dev={file}"])).data
        ways = {"datasets": (with_datasets, file), "poolwise": (with_poolwise, data)}
        for _ in range(TURNS):
            ids = []
            for name, (way, texts) in ways.items():
                with tempfile.TemporaryDirectory() as cache:
                    start = time.process_time()
                    ids.append(way(texts, tokenizer, Path(cache)))
                    seconds[name].append(time.process_time() - start)
            assert np.array_equal(*ids)
        theirs, ours = (median(seconds[name]) for name in seconds)
        count = Path(file).read_text(encoding="utf-8").count("\n") - 1
        print(
            f"{Path(file).parent.name:<10} {count:>6} {theirs:>10.2f} {ours:>10.2f} {theirs / ours:>7.2f}", flush=True
        )


if __name__ == "__main__":
    main()
