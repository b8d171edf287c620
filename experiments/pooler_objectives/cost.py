"""What a step costs with each objective, as a ratio to MLM alone: all of them take turns in one process.

    python experiments/pooler_objectives/cost.py TEXTS.tsv MAX_LENGTH --model FOLDER --raw FILE.csv [--rounds N] ...

A round is one step of each objective (forward, backward, clipping, AdamW) on the same texts, but half as many for
`views`, which reads each twice. Ratios are medians over rounds: of seconds a text, and a token read by MLM, with the
quartiles of the latter. The first rounds warm up and are left out. The raw times of all others are written down.
`rating` needs a column `stars`.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from datasets import Dataset
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from poolwise.app import composed, register_schemas
from poolwise.data.batching import LengthGroupedBatches, MaskedBatches
from poolwise.data.tokens import tokenise, with_ratings
from poolwise.encoder import load_for_pretraining
from poolwise.machine import prepare
from poolwise.objectives import build_objective, typed_objective
from poolwise.objectives.base import Surroundings
from poolwise.settings import Masking
from poolwise.stages.stage import weight_decay_groups

OBJECTIVES = ("none", "bow", "halves", "combined", "views", "simcse", "decoder", "sop", "nsp", "rating")
WARM_UP = 3


class Runner:
    """One objective: its own model, optimiser and batches."""

    def __init__(self, name: str, arguments: argparse.Namespace, texts: Any, tokenizer: Any) -> None:
        config = composed(["stage=mlm", f"objective={name}"]).objective
        settings = typed_objective(OmegaConf.to_container(config, resolve=True))
        self.device, self.half = arguments.device, arguments.precision == "bf16-mixed"
        model = load_for_pretraining(str(arguments.model), "keep", seed=1)
        self.objective = build_objective(settings, Surroundings(tokenizer, model.config, texts), seed=1)
        self.model, self.objective = model.to(self.device), self.objective.to(self.device)
        masking = Masking(0.15, 0.8, 0.1, "token", None)
        self.size = arguments.batch // (2 if self.objective.needs.arrangement == "views" else 1)
        batches = MaskedBatches(texts, tokenizer, masking, 1, self.objective.needs)
        self.batches = (batches[request] for request in LengthGroupedBatches(texts.lengths, self.size, seed=1))
        trained = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(weight_decay_groups(trained, 0.01), lr=1e-5)

    def step(self) -> tuple[float, float]:
        """Seconds a text, and a token, of one step."""
        batch = {
            key: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for key, value in next(self.batches).items()
        }
        started = time.perf_counter()
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.half):
            output = self.model(
                batch["input_ids"],
                batch["attention_mask"],
                token_type_ids=batch.get("token_type_ids"),
                labels=batch["labels"],
                masked_only=True,
            )
            losses = self.objective.losses(output.pooler_output, batch, self.model)
            loss = output.loss + sum(losses.values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return seconds / self.size, seconds / batch["tokens"]


def columns(rounds: list[tuple[float, float]]) -> list[tuple[str, list[float]]]:
    """Seconds a text and a token, by these names."""
    return [
        ("seconds_a_text", [a_text for a_text, _ in rounds]),
        ("seconds_a_token", [a_token for _, a_token in rounds]),
    ]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", type=Path)
    parser.add_argument("max_length", type=int)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    prepare()
    register_schemas()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    table = pandas.read_csv(arguments.texts, sep="\t", quoting=3)
    rows = Dataset.from_pandas(table[["text"]])
    texts = tokenise(rows, tokenizer, arguments.max_length, Path(".cache/poolwise"))
    if "rating" in arguments.objectives:
        ratings = {"train": table["stars"].astype(str).tolist()}
        texts = with_ratings({"train": texts}, ratings)["train"]
    runners = {name: Runner(name, arguments, texts, tokenizer) for name in arguments.objectives}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for _ in range(WARM_UP + arguments.rounds):
        for name, runner in runners.items():
            seconds[name].append(runner.step())
    times = {(name, unit): values for name, found in seconds.items() for unit, values in columns(found[WARM_UP:])}
    pandas.DataFrame(times).to_csv(arguments.raw, index=False, float_format="%.6f")
    plain = np.array(seconds["none"][WARM_UP:])
    print(f"{texts.lengths.mean():.1f} word pieces a text, {arguments.batch} rows a step, {arguments.rounds} rounds")
    print("| objective | a text | a token | quartiles | tokens a second |\n|---|---|---|---|---|")
    for name, found in seconds.items():
        values = np.array(found[WARM_UP:])
        (_, low), (a_text, a_token), (_, high) = np.quantile(values / plain, (0.25, 0.5, 0.75), axis=0)
        speed = 1 / np.median(values[:, 1])
        print(f"| {name} | {a_text:.3f} | {a_token:.3f} | {low:.3f} to {high:.3f} | {speed:,.0f} |")


if __name__ == "__main__":
    main()
