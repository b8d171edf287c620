"""What is wrong with a composed config as plain data: each setting by itself, and settings together.

A message has the key, its value and what is allowed.
"""

import inspect
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from poolwise import ranks
from poolwise import settings as types
from poolwise.objectives import COMBINED, OBJECTIVES, problems_with_long_texts, problems_with_objective, reads_ratings
from poolwise.representations import REPRESENTATIONS
from poolwise.settings import keys_of, not_one_of, problems_by_name, problems_with, unknown_key

Plain = dict[str, Any]

TRAINER_KEYS = ("accelerator", "devices", "precision", "log_every_n_steps")
"""Arguments of `lightning.Trainer` in each of `conf/trainer`."""
EPOCHS = "; write pretraining.epochs= in stage 1, protocol.epochs= in stage 2"


def problems_in(config: Plain, allowed: Sequence[str]) -> list[str]:
    """All that is wrong with a composed config, one line each; `allowed` are the keys of its stage."""
    missing = missing_in(config, allowed)
    if missing:
        return missing
    leaves = sorted(key for key in keys_of(config) if not key.startswith("stage1."))
    found = [
        unknown_key(key, value, allowed, [leaf for leaf in leaves if leaf.endswith(f".{key}")])
        for key, value in config.items()
        if key not in allowed
    ]
    found += [f"{key} is empty" for key in ("runs_dir", "cache_dir") if not config[key]]
    found += [f"{group}.name is empty" for group in ("data", "model") if not config[group].get("name", "-")]
    common = {
        "seed": types.Seed,
        "workers": types.NonNegativeCount,
        "checkpoint_minutes": types.NonNegative,
        "retry_failed": bool,
        "stop_on_failure": bool,
    }
    for key, hint in common.items():
        found += types.problems_with_value(hint, config[key], key)
    found += problems_in_group(config["data"], "source", types.DATA_SOURCES, "data.")
    found += problems_in_group(config["model"], "source", types.MODEL_SOURCES, "model.")
    found += problems_in_group(config["logger"], "name", types.LOGGERS, "logger.")
    found += problems_in_trainer(config["trainer"])
    found += problems_between(config)
    if config["stage"] == "mlm":
        found += problems_with(types.Pretraining, config["pretraining"], "pretraining.")
        found += problems_with_objective(config["objective"], "objective.")
        found += problems_in_control(config)
    else:
        found += problems_in_group(config["protocol"], "name", types.PROTOCOLS, "protocol.")
        if config["protocol"].get("name") == "probe" and config["trainer"].get("strategy") is not None:
            found.append("trainer=ddp: protocol=probe trains in one process; allowed with it: finetune, frozen")
        found += problems_by_name(config["repr"], REPRESENTATIONS, "repr.")
        found += problems_with_protocol(config)
        found += problems_with_folds(config)
        found += problems_with_least_steps(config)
        if config["labels_per_class"] != types.ALL_LABELS:
            found += types.problems_with_value(types.CountOrNull, config["labels_per_class"], "labels_per_class")
        found += types.problems_with_value(bool, config["keep_model"], "keep_model")
        for name in types.STAGE_2_SEEDS:
            if config[name] != config["seed"]:  # which it is unless told otherwise
                found += types.problems_with_value(types.Seed, config[name], name)
        found += problems_in_stage1(config["stage1"])
    return found


def missing_in(config: Plain, allowed: Sequence[str]) -> list[str]:
    """The keys that a person took out, or that hold no group where one must be."""
    found = [f"{key} is missing" for key in allowed if key not in config]
    found += [f"trainer.{key} is missing" for key in TRAINER_KEYS if key not in config.get("trainer", TRAINER_KEYS)]
    stage1 = config.get("stage1", {"objective": {}, "seed": 1})
    found += [f"stage1.{key} is missing" for key in ("objective", "seed") if key not in stage1]
    objective = stage1.get("objective", {})
    if not isinstance(objective, dict):
        given = "null" if objective is None else objective
        chosen = objective if objective in (*OBJECTIVES, COMBINED) else "NAME"
        found.append(f"stage1.objective={given}: is a group, chosen by objective@stage1.objective={chosen}")
    return found


def problems_between(config: Plain) -> list[str]:
    """Check what settings of right types must satisfy together."""
    found = []
    model = config["model"]
    hidden, heads = model.get("hidden_size"), model.get("attention_heads")
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 and hidden % heads:
        found.append(f"model.hidden_size={hidden}: must be a multiple of model.attention_heads={heads}")
    where, stage1 = ("pretraining", config["pretraining"]) if config["stage"] == "mlm" else ("stage1", config["stage1"])
    masking = stage1.get("masking")
    masking = masking if isinstance(masking, dict) else {}
    shares = [masking.get(name) for name in ("mask_token_share", "random_token_share")]
    numbers = [share for share in shares if isinstance(share, int | float)]
    if sum(numbers) > 1:
        found.append(f"{where}.masking: mask_token_share + random_token_share={sum(numbers):g}: must be at most 1")
    found += problems_with_objective_of(config, where)
    found += problems_with_length(stage1, masking, config, where)
    found += problems_with_streaming(stage1, masking, config, where) if config["data"].get("streaming") is True else []
    if model.get("add_words") and model.get("vocabulary_size") is not None:
        found.append(
            f"model.add_words={model['add_words']}: model.vocabulary_size={model['vocabulary_size']} makes a new "
            "vocabulary of the same text; give one"
        )
    if config["logger"].get("name") == "tensorboard" and find_spec("tensorboard") is None:
        found.append("logger.name='tensorboard': needs the package; pip install 'poolwise[tensorboard]'")
    return found


def problems_with_objective_of(config: Plain, where: str) -> list[str]:
    """Check that the objective can do with what is read of long texts, and objective and model with what is trained.

    `where` names the stage-1 settings: `pretraining` or `stage1`.
    """
    found = []
    model, pooler_alone = config["model"], config[where].get("trainable") == "pooler"
    objective = config["objective"] if where == "pretraining" else config[where].get("objective", {})
    if not problems_with_objective(objective, ""):
        found += problems_with_long_texts(objective, config["data"].get("long_texts"))
    if pooler_alone and model.get("source") == "pretrained":
        found += [
            f"{where}.trainable='pooler': keeps the encoder as it is, and would not train the embeddings of "
            f"model.{key}={model[key]}; leave that out"
            for key in ("add_words", "vocabulary_size")
            if model.get(key)
        ]
    if pooler_alone and model.get("source") == "scratch":
        found.append(
            f"{where}.trainable='pooler': model={model.get('name')} is drawn at random, and freezing that teaches "
            "nothing; give a checkpoint, as model=FOLDER"
        )
    return found


def problems_with_length(stage1: Plain, masking: Plain, config: Plain, where: str) -> list[str]:
    """Check that a budget alone says how long training is, and that epochs can be counted where masking needs them.

    `where` names the stage-1 settings, `stage1`: `pretraining` or `stage1`.
    """
    equal_time = is_given_equal_time(config)
    if not equal_time and stage1.get("budget") is None:
        return []
    given = "control=equal_time" if equal_time else f"{where}.budget={stage1['budget']}"
    found = [
        f"{given}: trainer.{key}={config['trainer'][key]} says another length of training; give one"
        for key in types.TRAINER_LENGTHS
        if config["stage"] == "mlm" and config["trainer"].get(key) is not None
    ]
    budget = types.Budget.read(str(stage1.get("budget")))
    of_time = equal_time or (budget is not None and budget.unit == "seconds")
    if of_time and masking.get("final_mask_probability") is not None:
        found.append(
            f"{where}.masking.final_mask_probability={masking['final_mask_probability']}: changes from epoch to epoch, "
            f"and how many {given} comes to is not known before; allowed: epochs, or a budget of steps or tokens"
        )
    return found


def problems_with_streaming(stage1: Plain, masking: Plain, config: Plain, where: str) -> list[str]:
    """Check that nothing must know all of a stream, or how long it is; `where` names the stage-1 settings, `stage1`."""
    found = []
    in_stage1, trainer = config["stage"] == "mlm", config["trainer"]
    is_bounded = stage1.get("budget") is not None or is_given_equal_time(config)
    if not is_bounded and (in_stage1 or config["encoder"] == "stage1"):
        found.append(
            "data.streaming=true: the length of a pass over data.text is not known, so epochs do not say how long "
            f"training is; give {where}.budget, {types.Budget.ALLOWED.removesuffix('; or null')}"
        )
    if stage1.get("trainable") == "pooler":
        found.append(
            f"{where}.trainable='pooler': keeps what the frozen encoder says of each text, and data.streaming=true "
            "keeps nothing; allowed with it: all"
        )
    if masking.get("final_mask_probability") is not None:
        found.append(
            f"{where}.masking.final_mask_probability={masking['final_mask_probability']}: changes from epoch to epoch, "
            "and how many data.streaming=true comes to is not known; allowed: null"
        )
    objective = config["objective"] if in_stage1 else stage1.get("objective", {})
    if not problems_with_objective(objective, "") and reads_ratings(objective):
        found.append("objective=rating: must know all ratings, and data.streaming=true reads texts alone")
    if config["data"].get("contamination") == "error":
        found.append(
            "data.contamination='error': must read all texts before training, and data.streaming=true reads them in "
            "training; allowed: drop, warn"
        )
    if config["data"].get("near_copies") is True:
        found.append(
            "data.near_copies=true: must compare all texts before training, and data.streaming=true reads them in "
            "training; allowed: false"
        )
    found += [
        f"trainer.{key}={trainer[key]}: a share of an epoch, whose length data.streaming=true does not know; allowed: "
        "a whole number of batches"
        for key in ("limit_train_batches", "val_check_interval")
        if in_stage1 and isinstance(trainer.get(key), float) and trainer[key] != 1.0
    ]
    return found


def is_given_equal_time(config: Plain) -> bool:
    """Whether a control says how long stage 1 is."""
    control = config.get("control")
    return isinstance(control, dict) and control.get("name") == "equal_time"


def problems_in_control(config: Plain) -> list[str]:
    """Check a control's own settings, and that what was typed beside it leaves it what it is."""
    control, pretraining = config["control"], config["pretraining"]
    if control is None:
        return []
    if not isinstance(control, dict):
        return [f"control={control!r}: must be one of {', '.join(types.CONTROLS)}"]
    found = problems_in_group(control, "name", types.CONTROLS, "control.")
    name = control.get("name")
    if config["objective"].get("name") != "none":
        found.append(f"control={name}: has no pooler objective; leave out objective={config['objective'].get('name')}")
    found += [
        f"control={name}: pretraining.{key}={pretraining.get(key)}: must be {value or 'left out'}"
        for key, value in types.HELD_BY_CONTROLS.get(str(name), {}).items()
        if pretraining.get(key) != value
    ]
    if name == "own_pooler" and config["model"].get("source") == "scratch":
        found.append(
            f"control=own_pooler: model={config['model'].get('name')} is drawn at random and has no pooler of its own; "
            "give a checkpoint, as model=FOLDER"
        )
    return found


def problems_in_group(group: Plain, chooser: str, kinds: Mapping[str, type], where: str) -> list[str]:
    """Check a group whose key `chooser` names the class that takes its values."""
    choice = str(group.get(chooser, ""))
    if choice not in kinds:
        return [not_one_of(f"{where}{chooser}", group.get(chooser, ""), kinds)]
    found, own = [], {}
    for key, value in group.items():
        owners = [name for name, kind in kinds.items() if key in types.settings_of(kind)]
        if not owners or choice in owners:
            own[key] = value
        else:
            given = f"{where}{key}" if isinstance(value, dict) else f"{where}{key}={value}"
            found.append(f"{given}: no such setting with {where}{chooser}={choice}; allowed with {', '.join(owners)}")
    return found + problems_with(kinds[choice], own, where)


def problems_with_protocol(config: Plain) -> list[str]:
    """Check that stored states will do for the representation, and that a probe has no parameters of it to train."""
    protocol, kind = config["protocol"].get("name"), REPRESENTATIONS.get(str(config["repr"].get("name")))
    if kind is None or protocol not in ("frozen", "probe"):
        return []
    for_tokens = [name for name, other in REPRESENTATIONS.items() if not other.reads_tokens]
    fixed = [name for name in for_tokens if not REPRESENTATIONS[name].learned]
    if protocol == "probe" and kind.learned:
        reason, allowed = "has parameters of its own, which a logistic regression does not train", fixed
    elif kind.reads_tokens:
        reason, allowed = "reads the states of all tokens, and few are stored", for_tokens
    else:
        return []
    return [f"repr={kind.name}: {reason}; allowed with protocol={protocol}: {', '.join(allowed)}"]


def problems_with_folds(config: Plain) -> list[str]:
    """Check that a probe in folds is not to have few labels too."""
    folds, count = config["protocol"].get("folds"), config["labels_per_class"]
    count = None if count == types.ALL_LABELS else count
    if folds is None or count is None:
        return []
    return [f"labels_per_class={count}: with protocol.folds={folds} a probe reads all of the other folds; give one"]


def problems_with_least_steps(config: Plain) -> list[str]:
    """Check that steps can be counted before texts are tokenised, where few labels are read often enough for some."""
    protocol, count = config["protocol"], config["labels_per_class"]
    steps, tokens = protocol.get("least_steps"), protocol.get("batch_tokens")
    if count in (None, types.ALL_LABELS) or tokens is None or not steps:
        return []
    return [
        f"protocol.batch_tokens={tokens}: protocol.least_steps={steps}, for labels_per_class={count}, counts batches "
        "of batch_size texts; give protocol.least_steps=0, or leave batch_tokens out"
    ]


def problems_in_stage1(stage1: Plain) -> list[str]:
    """Check stage 2's subtree `stage1`: the settings of stage 1, its objective and its seed."""
    pretraining = {k: v for k, v in stage1.items() if k not in ("objective", "seed")}
    return [
        *problems_with(types.Pretraining, pretraining, "stage1."),
        *problems_with_objective(stage1["objective"], "stage1.objective."),
        *types.problems_with_value(types.Seed, stage1["seed"], "stage1.seed"),
    ]


def problems_in_trainer(trainer: Plain) -> list[str]:
    """Check `trainer.*` against the signature of `lightning.Trainer`, which takes 4 s to import."""
    found = problems_with_processes(trainer)
    if not set(trainer) - {*TRAINER_KEYS, "strategy"}:
        return found
    import lightning

    from poolwise.stages.loop import OWN_TRAINER_ARGUMENTS

    allowed = set(inspect.signature(lightning.Trainer).parameters) - set(OWN_TRAINER_ARGUMENTS)
    return found + [
        f"trainer.{key} is set by poolwise itself" + (EPOCHS if key == "max_epochs" else "")
        if key in OWN_TRAINER_ARGUMENTS
        else unknown_key(f"trainer.{key}", value, [f"trainer.{name}" for name in sorted(allowed)])
        for key, value in trainer.items()
        if key not in allowed
    ]


def problems_with_processes(trainer: Plain) -> list[str]:
    """Check on how many devices `trainer.*` trains: on one, or with `trainer=ddp` on one in each process."""
    devices, strategy = trainer.get("devices"), trainer.get("strategy")
    if strategy is not None:
        found = [] if strategy == "ddp" else [f"trainer.strategy={strategy!r}: must be ddp (trainer=ddp)"]
        return found + ([] if devices == "auto" else [f"trainer.devices={devices!r}: must be auto with trainer=ddp"])
    several = ranks.started() if ranks.started().by == "torchrun" else ranks.ALONE
    if several.size > 1:
        return [f"torchrun started {several.size} processes, and each would do all of this; give trainer=ddp"]
    if devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1):
        return []
    return [
        f"trainer.devices={devices!r}: must be 1, or a list of one device such as [0]; several processes: trainer=ddp"
    ]
