"""Tables of the final runs: accuracies, paired differences, geometry and gradients.

    python experiments/pooler_objectives/tables.py RESULTS_FOLDER

Writes accuracies.csv, differences.csv and training.csv beside this script. C is chosen on dev for each condition,
representation and number of labels, by the mean over stage-1 seeds. "fresh" is the mean of the poolers drawn at random
on one encoder. Rows with `reads_labels` are of objectives that saw labels in stage 1.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas
from numpy import ndarray
from scipy import stats

HERE = Path(__file__).parent
COUNTS = ("8", "32", "128", "all")
RESAMPLES = 2000
PLAIN, EQUAL_TIME, BATCH16, UNADAPTED = "none", "equal_time", "none_batch16", "unadapted"
READ_LABELS = ("rating", "rating_pooler_only")


@dataclass
class Run:
    """What one stage-1 run left: accuracies, and right answers on test."""

    found: dict
    right: dict[str, ndarray]

    @property
    def seed(self) -> int:
        """Of stage 1."""
        return self.found["run"]["seed"]


class Condition:
    """The runs of one encoder, data set and way to train, by their seeds."""

    def __init__(self, runs: list[Run]) -> None:
        """Sort the runs."""
        self.runs = sorted(runs, key=lambda run: run.seed)

    @cached_property
    def representations(self) -> list[str]:
        """cls, pooler, mean, and fresh where poolers were drawn."""
        return ["cls", "pooler", "mean"] + ["fresh"] * ("fresh_0" in self.runs[0].found["probes"])

    def _members(self, representation: str) -> list[str]:
        probes = self.runs[0].found["probes"]
        return [name for name in probes if name == representation or name.startswith(f"{representation}_")]

    def strength(self, representation: str, count: str) -> str:
        """The C that is best on dev."""
        members = self._members(representation)

        def dev(strength: str) -> float:
            return np.mean([run.found["probes"][m][count][strength]["dev"] for run in self.runs for m in members])

        return max(self.runs[0].found["probes"][members[0]][count], key=dev)

    def right(self, representation: str, count: str) -> dict[int, ndarray]:
        """By stage-1 seed: the share of label draws (and fresh poolers) in which each test text is right, in %."""
        strength, members = self.strength(representation, count), self._members(representation)
        draws = 1 if count == "all" else 30
        return {
            run.seed: 100 * np.mean([run.right[f"{m}/{count}/{strength}"] for m in members], axis=0) / draws
            for run in self.runs
        }


def load(folder: Path) -> dict[tuple[str, str, str], Condition]:
    """All conditions by encoder, data and name."""
    runs: dict[tuple[str, str, str], list[Run]] = {}
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        key = (found["run"]["encoder"], found["run"]["data"], found["run"]["condition"])
        runs.setdefault(key, []).append(Run(found, dict(np.load(file.with_suffix(".npz")))))
    return {key: Condition(members) for key, members in runs.items()}


def accuracies(conditions: dict[tuple[str, str, str], Condition]) -> Iterator[dict[str, object]]:
    """A row for each condition, representation and number of labels."""
    for (encoder, data, name), condition in conditions.items():
        for representation in condition.representations:
            for count in COUNTS:
                values = [float(right.mean()) for right in condition.right(representation, count).values()]
                yield {
                    **{"encoder": encoder, "data": data, "condition": name, "reads_labels": name in READ_LABELS},
                    "representation": representation,
                    **{"labels_a_class": count, "C": condition.strength(representation, count), "runs": len(values)},
                    "accuracy": round(float(np.mean(values)), 2),
                    "sd_over_runs": round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None,
                }


def difference(first: dict[int, ndarray], second: dict[int, ndarray]) -> dict[str, object]:
    """Mean of paired differences, with a t-interval over stage-1 seeds, one by resampling test texts, and one of both.

    That of both has the root of the sum of the squared half-widths, as of independent sources.
    """
    seeds = sorted(first.keys() & second.keys())
    texts = np.array([first[seed] - second[seed] for seed in seeds])
    values = texts.mean(axis=1)
    found = {"runs": len(seeds), "difference": round(float(values.mean()), 2)}
    if len(seeds) > 1:
        half = stats.t.ppf(0.975, len(seeds) - 1) * values.std(ddof=1) / np.sqrt(len(seeds))
        found |= {"seeds_low": round(values.mean() - half, 2), "seeds_high": round(values.mean() + half, 2)}
    else:
        half = 0.0
    means, random = texts.mean(axis=0), np.random.default_rng(1)
    resampled = [means[random.integers(0, len(means), len(means))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    both = float(np.hypot(half, (high - low) / 2))
    found |= {"texts_low": round(float(low), 2), "texts_high": round(float(high), 2)}
    return found | {"low": round(float(values.mean()) - both, 2), "high": round(float(values.mean()) + both, 2)}


def differences(conditions: dict[tuple[str, str, str], Condition]) -> Iterator[dict[str, object]]:
    """The pooler of each condition less what the hypotheses and aims hold it against."""
    for (encoder, data, name), condition in conditions.items():
        references = [*((control, "fresh") for control in (PLAIN, EQUAL_TIME, BATCH16, UNADAPTED))]
        references += [(name, "cls"), (name, "mean"), (UNADAPTED, "mean"), ("bow", "pooler"), ("halves", "pooler")]
        for other, representation in dict.fromkeys(references):
            reference = conditions.get((encoder, data, other))
            if reference is None or (other, representation) == (name, "pooler"):
                continue
            for count in COUNTS:
                pooler, held_against = condition.right("pooler", count), reference.right(representation, count)
                if other == UNADAPTED:  # which has no stage-1 seeds
                    held_against = dict.fromkeys(pooler, next(iter(held_against.values())))
                if not pooler.keys() & held_against.keys():
                    continue
                yield {
                    **{"encoder": encoder, "data": data, "condition": name, "reads_labels": name in READ_LABELS},
                    "labels_a_class": count,
                    "pooler_less": f"{representation} of {'its own' if other == name else other}",
                    **difference(pooler, held_against),
                }


def training(conditions: dict[tuple[str, str, str], Condition]) -> Iterator[dict[str, object]]:
    """Means over runs of what provenance.json holds on the pooler, and of what was done."""
    for (encoder, data, name), condition in conditions.items():
        rows = []
        for run in condition.runs:
            provenance, record = run.found["provenance"], run.found["record"]
            pooler = provenance["parts"]["pooler"]
            rows.append(
                {
                    **{key: record[key] for key in ("steps", "tokens", "training_seconds")},
                    **{key: value for key, value in provenance["pooler_geometry"].items() if key != "texts"},
                    "pooler_gradient": sum(pooler["gradient_norm_by_loss"].values()),
                    "pooler_moved": pooler["relative_distance_moved"],
                    **{f"loss_share_{loss}": share for loss, share in provenance["loss_shares"].items()},
                }
            )
        means = pandas.DataFrame(rows).astype(float).mean().round(3)
        statuses = {run.found["provenance"]["pooler_status"] for run in condition.runs}
        named = {"encoder": encoder, "data": data, "condition": name, "reads_labels": name in READ_LABELS}
        yield {**named, "pooler": "/".join(sorted(statuses)), **means}


def main() -> None:
    """Write the tables."""
    conditions = load(Path(sys.argv[1]))
    for name, rows in (("accuracies", accuracies), ("differences", differences), ("training", training)):
        pandas.DataFrame(rows(conditions)).to_csv(HERE / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
