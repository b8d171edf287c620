"""What a stage-1 run is called and what its numbers depend on: for its own stage and the one that reads it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datasets import Dataset

from poolwise.data.corpus import RATING, content_hash
from poolwise.data.segmentation import segmenter
from poolwise.data.tokens import tokenizer_hash
from poolwise.jobs.corpus import stage1_text, stream_of
from poolwise.jobs.start import model_label, model_name, starting_point
from poolwise.jobs.trainer import platform
from poolwise.objectives import label_of, reads_ratings
from poolwise.objectives.bow import BagOfWords
from poolwise.objectives.none import NoObjective
from poolwise.runs import RunIdentity, hash_of, without_seeds
from poolwise.settings import CommonSettings, Pretraining, Stage1Choice, UserError


def stage1_identity(settings: CommonSettings, choice: Stage1Choice, trainer: dict[str, Any]) -> RunIdentity:
    """The identity of a stage-1 run: computed alike by the stage that makes it and the stage that reads it."""
    start = starting_point(settings)
    texts = stage1_text(settings.data, settings.rows_dir)
    stream = stream_of(settings.data, settings.rows_dir)
    of_stream = {} if stream is None else {"train": stream.material}
    material: dict[str, Any] = {
        "stage": "mlm",
        "seed": choice.seed,
        "weights": start.fingerprint,
        "tokenizer": tokenizer_hash(start.tokenizer),
        "text": {split: content_hash(rows) for split, rows in texts.items()} | of_stream,
        "max_length": settings.data.max_length,
        **settings.data.reading.material,
        "pretraining": material_of(choice.pretraining),
        "objective": objective_material(choice.objective),
        "platform": platform(trainer),
    }
    if choice.pretraining.masking.unit != "token":
        material["segmenter"] = segmenter()
    if reads_ratings(choice.objective):
        material["rating"] = {split: hash_of(column) for split, column in ratings_of(texts).items()}
    label = stage1_label(choice)
    condition = f"{settings.data.name}-{model_name(settings.model)}-{label}"
    return RunIdentity(
        stage="mlm",
        name=f"{condition}-seed{choice.seed}",
        condition=condition,
        material=material,
        condition_material=without_seeds(material),
        flat={
            "data": settings.data.name,
            "model": model_label(settings),
            "objective": label,
            "seed": choice.seed,
        },
    )


def material_of(pretraining: Pretraining) -> dict[str, Any]:
    """The settings as plain data, without `budget` if it is null (as before there were any), else without `epochs`."""
    unused = "budget" if pretraining.budget is None else "epochs"
    return {key: value for key, value in asdict(pretraining).items() if key != unused}


def objective_material(objective: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an objective as keys have them: those of `bow` with one that is no more, as it was when off."""
    if "parts" in objective:
        parts = {name: objective_material(part) for name, part in objective["parts"].items()}
        return {**objective, "parts": parts}
    return {**objective, **({"drop_stop_words": False} if objective["name"] == BagOfWords.name else {})}


def trains_nothing(choice: Stage1Choice) -> bool:
    """Whether a stage-1 run leaves all as it is: a frozen encoder, and no objective."""
    return choice.pretraining.trainable == "pooler" and choice.objective["name"] == NoObjective.name


def stage1_label(choice: Stage1Choice) -> str:
    """How tables and names call a stage-1 run: the objective, with what else it must be told apart by."""
    pretraining = choice.pretraining
    if trains_nothing(choice):
        return "untrained-fresh_pooler" if pretraining.pooler_init == "fresh" else "untrained"
    return label_of(choice.objective, pretraining.trainable, str(pretraining.budget or ""))


def ratings_of(texts: Mapping[str, Dataset]) -> dict[str, list[str]]:
    """The ratings of stage-1 texts by split.

    Raises:
        UserError: the data has none, or all are the same.
    """
    if any(RATING not in rows.column_names for rows in texts.values()):
        raise UserError(
            "objective=rating needs data whose texts have a rating: data=demo, or data=files with data.rating_column"
        )
    ratings = {split: list(rows[RATING]) for split, rows in texts.items()}
    if len(set(ratings["train"])) < 2:
        raise UserError(f"objective=rating: all ratings of the training texts are {ratings['train'][0]!r}")
    return ratings
