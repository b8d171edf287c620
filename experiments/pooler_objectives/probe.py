"""Frozen probes of checkpoints: logistic regressions on cls, pooler and mean, with few labels and with all.

    python experiments/pooler_objectives/probe.py DATA_PREFIX RESULTS.json [--test] [--fresh K] FOLDER

`DATA_PREFIX` is what stands before `train.tsv`, `dev.tsv` and `test.tsv`. Each text is encoded once, and features are
standardised by the training texts. The results hold, for each representation, number of labels a class and C, the mean
accuracy (%) over the draws of labels, which are the same for every checkpoint. Test is read only with `--test`; then
`RESULTS.npz` holds in how many draws each test text was right. `--fresh K` adds K poolers drawn at random on the same
cls states.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas
import torch
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from poolwise.encoder import draw_dense, load_encoder
from poolwise.machine import prepare
from poolwise.representations import EncoderShape, representation_class

LABELS_A_CLASS = (8, 32, 128)
DRAWS = 30
STRENGTHS = (0.001, 0.01, 0.1)
"""C of scikit-learn's logistic regression: the inverse of the L2 penalty's weight."""
BATCH = 64


def read(prefix: str, split: str) -> tuple[list[str], ndarray]:
    """Texts and labels (0 or 1) of a split."""
    rows = pandas.read_csv(f"{prefix}{split}.tsv", sep="\t", quoting=3)
    return rows["text"].tolist(), rows["label"].to_numpy()


@torch.inference_mode()
def encode(
    folder: Path, texts: list[str], max_length: int, fresh: int, tokenizer: PreTrainedTokenizerBase
) -> dict[str, ndarray]:
    """Each representation's vectors (N, H) of N texts, and those of `fresh` random poolers."""
    model, _ = load_encoder(str(folder), seed=0, pooler_required=False)
    model.eval()
    config = model.config
    maps = {name: representation_class(name)(EncoderShape.of(config)) for name in ("cls", "pooler", "mean")}
    dense = []
    for seed in range(fresh):
        torch.manual_seed(seed)
        dense.append(torch.nn.Linear(config.hidden_size, config.hidden_size))
        draw_dense(dense[-1], config.initializer_range)
    ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    order = sorted(range(len(texts)), key=lambda number: len(ids[number]))
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(order), BATCH):
        batch = tokenizer.pad(
            {"input_ids": [ids[number] for number in order[start : start + BATCH]]}, return_tensors="pt"
        )
        states = model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        vectors = {name: kind((states,), batch["attention_mask"], model.pooler) for name, kind in maps.items()}
        vectors |= {f"fresh_{number}": torch.tanh(layer(states[:, 0])) for number, layer in enumerate(dense)}
        for name, values in vectors.items():
            found.setdefault(name, []).append(values)
    back = np.argsort(order)
    return {name: torch.cat(parts).numpy()[back] for name, parts in found.items()}


def draws_of(labels: ndarray, count: int) -> list[ndarray]:
    """`DRAWS` sets of examples, `count` of each class."""
    sets = []
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        sets.append(np.concatenate([random.choice(np.flatnonzero(labels == c), count, replace=False) for c in (0, 1)]))
    return sets


def right_answers(
    train: ndarray, labels: ndarray, splits: dict[str, tuple[ndarray, ndarray]], sets: list[ndarray], strength: float
) -> dict[str, ndarray]:
    """In how many of the sets of training examples each text (N,) of each split is classified rightly."""
    right = {split: np.zeros(len(wanted), dtype=np.uint8) for split, (_, wanted) in splits.items()}
    for chosen in sets:
        probe = LogisticRegression(C=strength, max_iter=2000).fit(train[chosen], labels[chosen])
        for split, (vectors, wanted) in splits.items():
            right[split] += probe.predict(vectors) == wanted
    return right


def probe(
    folder: Path, prefix: str, max_length: int, splits: tuple[str, ...], fresh: int
) -> tuple[dict[str, dict[str, dict[str, dict[str, float]]]], dict[str, ndarray]]:
    """Accuracies by representation, labels a class, C and split; and right answers on test under the same names."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = {split: read(prefix, split) for split in ("train", *splits)}
    vectors = {split: encode(folder, texts, max_length, fresh, tokenizer) for split, (texts, _) in data.items()}
    labels = data["train"][1]
    sets = {str(count): draws_of(labels, count) for count in LABELS_A_CLASS} | {"all": [np.arange(len(labels))]}
    accuracies: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    answers = {}
    for name, train in vectors["train"].items():
        middle, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
        scaled = {split: ((vectors[split][name] - middle) / spread, data[split][1]) for split in splits}
        for count, chosen in sets.items():
            for strength in STRENGTHS:
                right = right_answers((train - middle) / spread, labels, scaled, chosen, strength)
                accuracies.setdefault(name, {}).setdefault(count, {})[str(strength)] = {
                    split: round(100 * float(values.mean()) / len(chosen), 3) for split, values in right.items()
                }
                if "test" in right:
                    answers[f"{name}/{count}/{strength}"] = right["test"]
    return accuracies, answers


def main() -> None:
    """Probe a checkpoint and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--fresh", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=64)
    arguments = parser.parse_args()
    prepare()
    splits = ("dev", "test") if arguments.test else ("dev",)
    with threadpool_limits(1):
        accuracies, answers = probe(arguments.folder, arguments.data, arguments.max_length, splits, arguments.fresh)
    np.savez_compressed(arguments.results.with_suffix(".npz"), **answers)
    arguments.results.write_text(json.dumps(accuracies), encoding="utf-8")


if __name__ == "__main__":
    main()
