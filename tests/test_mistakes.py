"""What a person is told about each mistake: one row a mistake, all run through `train.py` in this process."""

import json
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import datasets
import pytest
from httpx import ConnectError
from huggingface_hub import constants
from hydra.core.global_hydra import GlobalHydra
from transformers import BertConfig, BertForSequenceClassification, BertModel

from helpers import SMALL_RUN, SMALL_STAGE1, SMALL_STAGE2
from poolwise import checkpoints, machine
from poolwise.settings import UserError

GOOD = "text,label\ngood film,pos\nbad film,neg\n"
FILES = {
    "good.csv": GOOD.encode(),
    "empty.csv": b"",
    "header.csv": b"text,label\n",
    "one.csv": b"text,label\na,pos\nb,pos\n",
    "odd.csv": GOOD.encode() + b"well,mixed\n",
    "blank.csv": GOOD.encode() + b" ,pos\n",
    "latin.csv": GOOD.encode() + "une très belle histoire,pos\n".encode("cp1252"),
    "column.csv": b"words,label\na,pos\nb,neg\n",
    "blank.txt": b"\n\n",
    "latin.txt": "good\nd\xe9j\xe0 vu, tr\xe8s bien\n".encode("cp1252"),
}
OWN = ["stage=sentiment", "encoder=base", "data=files", *(s for s in SMALL_RUN if not s.startswith("data."))]
OWN_TEXT = [word for word in OWN if word not in ("stage=sentiment", "encoder=base")] + ["stage=mlm"]


def own(**files: str) -> list[str]:
    """Stage 2 on these files, good ones for the splits that are not named."""
    named = dict.fromkeys(("train", "dev", "test"), "good.csv") | files
    return [*OWN, *(f"data.{split}={file}" for split, file in named.items())]


MISTAKES = {
    # choices, and Hydra's own words
    "unknown choice": (["stage=mlm", "objective=nonne"], 2, ["objective=nonne: no such choice (did you mean none?)"]),
    "unknown choice in a sweep": (["repr=cls,polar", "-m"], 2, ["repr=cls,polar: no such choice (did you mean pooler"]),
    "unknown choice beside others": (
        ["repr=poler", "protocol.epoch=3", "seed=-1"],
        2,
        ["3 mistakes", "did you mean pooler?", "did you mean protocol.epochs?", "seed=-1: must be at least 0"],
    ),
    "several choices and no sweep, and settings of the first": (
        ["stage=mlm", "objective=halves,views", "objective.temperature=1,3"],
        2,
        ["poolwise: objective=halves,views: several choices need -m at the end of the command\n"],
    ),
    "several choices and no sweep": (["repr=cls,mean"], 2, ["repr=cls,mean: several choices need -m at the end"]),
    "a model without a slash": (["stage=mlm", "model=bert-base-uncased"], 2, ["did you mean bert_base", "a slash"]),
    "no choice": (["stage=mlm", "model=null"], 2, ["model=null: no such choice; model is one of bert_base"]),
    "stage in capitals": (["stage=MLM"], 2, ["stage=MLM: must be one of mlm, sentiment (did you mean mlm?)"]),
    "a setting taken away": (["stage=mlm", "~seed"], 2, ["seed is missing"]),
    "a setting of stage 1 taken away": (["~stage1.seed"], 2, ["poolwise: stage1.seed is missing"]),
    "a setting of the trainer taken away": (
        ["stage=mlm", "~trainer.log_every_n_steps"],
        2,
        ["poolwise: trainer.log_every_n_steps is missing"],
    ),
    "an objective of stage 1 as a value": (
        ["stage1.objective=bow"],
        2,
        ["stage1.objective=bow: is a group, chosen by objective@stage1.objective=bow\n"],
    ),
    "no objective of stage 1": (
        ["stage1.objective=null"],
        2,
        ["stage1.objective=null: is a group, chosen by objective@stage1.objective=NAME\n"],
    ),
    "lists in place of names": (
        ["repr.name=[cls]", "logger.name=[csv]", "stage1.objective.name=[bow]"],
        2,
        [
            "repr.name=['cls']: must be one of cls, ",
            "logger.name=['csv']: must be one of ",
            "stage1.objective.name=['bow']: must be one of none, bow",
        ],
    ),
    "a part of long texts": (
        ["data.long_texts=tial"],
        2,
        ["must be one of head, tail, head_tail, windows (did you mean"],
    ),
    "windows that never end": (["stage=mlm", "data.window_overlap=1"], 2, ["must be at least 0 and below 1"]),
    "pairs of windows": (
        ["stage=mlm", "objective=sop", "data.long_texts=windows"],
        2,
        ["data.long_texts=windows: objective=sop tells pairs", "allowed with it: head, head_tail"],
    ),
    "balanced batches of a probe": (
        ["protocol=probe", "protocol.imbalance=balanced_sampling"],
        2,
        ["protocol.imbalance='balanced_sampling': must be one of none, class_weights"],
    ),
    "the last part of a key": (["epochs=3"], 2, ["epochs=3: no such setting (did you mean protocol.epochs?)"]),
    "a trainer's key": (["stage=mlm", "+trainer.max_epochs=3"], 2, ["write pretraining.epochs= in stage 1"]),
    "empty names": (["stage=mlm", "runs_dir=", "data.name="], 2, ["runs_dir is empty", "data.name is empty"]),
    "a misspelt key in --cfg": (["stage=mlm", "seeed=3", "--cfg", "job"], 1, ["seeed"]),
    "a misspelt key in --cfg=": (["stage=mlm", "seeed=3", "--cfg=job"], 1, ["seeed"]),
    "broken grammar": (["stage=mlm", "data.name=a(b"], 1, ["a(b"]),
    # the config
    "unknown key": (
        ["stage=mlm", "pretraining.epoch=3"],
        2,
        ["pretraining.epoch=3: no such setting (did you mean pretraining.epochs?)"],
    ),
    "unknown key at the top": (["stage=mlm", "sed=3"], 2, ["sed=3: no such setting (did you mean seed?)"]),
    "unknown group": (["stage=mlm", "modell=tiny"], 2, ["modell=tiny: no such setting (did you mean model?)"]),
    "unknown key behind +": (["stage=mlm", "+objective.wait=1"], 2, ["objective.wait=1: no such setting"]),
    "unknown key in a sweep": (["protocol.epoch=1,2", "-m"], 2, ["protocol.epoch=1: no such", "protocol.epoch=2: no"]),
    "wrong type": (["stage=mlm", "seed=abc", "model.layers=two"], 2, ["seed='abc': must be a whole number", "'two'"]),
    "out of range": (["stage=mlm", "pretraining.epochs=0"], 2, ["pretraining.epochs=0: must be at least 1"]),
    "nearly a choice": (["stage=mlm", "pretraining.pooler_init=kep"], 2, ["keep, fresh (did you mean keep?)"]),
    "repr in stage 1": (["stage=mlm", "repr=pooler"], 2, ["repr=pooler: stage=mlm has no repr"]),
    "a layer below the embeddings": (["repr.layer=-1"], 2, ["repr.layer=-1: must be at least 0"]),
    "half a layer": (["repr.layer=0.5"], 2, ["repr.layer=0.5: must be a whole number or null"]),
    "a layer that is not there, of random weights": (
        ["encoder=base", *SMALL_STAGE2, "repr=mean", "repr.layer=1,3", "-m"],
        2,
        ["repr.layer=3: this encoder has 2 layers; allowed with repr=mean: 0 to 2, or null for the last"],
    ),
    "a layer that is not there, of a checkpoint": (
        ["encoder=base", "model=minilm", "data.text=8", "repr.layer=7"],
        2,
        ["repr.layer=7: this encoder has 6 layers; allowed with repr=cls: 0 to 6, or null for the last"],
    ),
    "four layers of two, before stage 1 is made": (
        [*SMALL_STAGE2, "repr=cls_last4"],
        2,
        ["repr=cls_last4: reads 4 layers, and this encoder has 2"],
    ),
    "a setting of another protocol": (
        ["protocol=frozen", "protocol.layer_decay=0.9", "protocol.reinitialise.pooler=true"],
        2,
        [
            "protocol.layer_decay=0.9: no such setting with protocol.name=frozen; allowed with finetune",
            "protocol.reinitialise: no such setting with protocol.name=frozen; allowed with finetune",
        ],
    ),
    "settings of fine-tuning out of range": (
        [*("protocol.layer_decay=0", "protocol.early_stopping=0"), "protocol.gradual_unfreezing=3"],
        2,
        [
            "protocol.layer_decay=0: must be above 0 and at most 1",
            "protocol.early_stopping=0: must be at least 1",
            "protocol.gradual_unfreezing=3: must be true or false",
        ],
    ),
    "more layers drawn anew than are read": (
        ["encoder=base", *SMALL_STAGE2, "repr.layer=1", "protocol.reinitialise.top_layers=2"],
        2,
        ["protocol.reinitialise.top_layers=2: the representation reads layer 1 of this encoder and those below it"],
    ),
    "a seed of stage 2 in stage 1": (
        ["stage=mlm", "head_seed=2"],
        2,
        ["head_seed=2: stage=mlm has no head_seed; it is"],
    ),
    "seeds that are none": (
        ["seed=-1", "order_seed=x", "pooler_seed=-2"],
        2,
        ["3 mistakes", "order_seed='x': must be a whole number", "pooler_seed=-2: must be at least 0"],
    ),
    "protocol in stage 1": (["stage=mlm", "protocol.epochs=1"], 2, ["protocol.epochs=1: stage=mlm has no protocol"]),
    "objective in stage 2": (["stage=sentiment", "objective=none"], 2, ["write objective@stage1.objective=none"]),
    "pretraining in stage 2": (["pretraining.epochs=2"], 2, ["write stage1.epochs=2"]),
    # budgets and controls
    "a budget without a unit": (
        ["stage=mlm", "budget=2000"],
        2,
        ["pretraining.budget=2000: must be a number above 0 with a unit, such as 2000steps, 1000000tokens, 90s, 10min"],
    ),
    "a budget of nothing": (["stage=mlm", "budget=0.0h"], 2, ["pretraining.budget='0.0h': must be a number above 0"]),
    "an unknown unit in stage 2": (
        ["budget=3days"],
        2,
        ["stage1.budget='3days': must be a number above 0 with a unit"],
    ),
    "two lengths of training": (
        ["stage=mlm", "budget=90s", "+trainer.max_steps=3"],
        2,
        ["pretraining.budget=90s: trainer.max_steps=3 says another length of training; give one"],
    ),
    "masking by epochs that nobody can count": (
        ["stage=mlm", "budget=90s", "pretraining.masking.final_mask_probability=0.3"],
        2,
        ["final_mask_probability=0.3: changes from epoch to epoch", "allowed: epochs, or a budget of steps or tokens"],
    ),
    "two lengths beside equal time": (
        [
            *("stage=mlm", "control=equal_time", "control.run=runs", "+trainer.max_time=00:00:01:00"),
            "pretraining.masking.final_mask_probability=0.3",
        ],
        2,
        [
            "control=equal_time: trainer.max_time=00:00:01:00 says another length of training; give one",
            "changes from epoch to epoch, and how many control=equal_time comes to is not known before",
        ],
    ),
    "unknown control": (["stage=mlm", "control=same_time"], 2, ["control=same_time: no such choice (did you mean"]),
    "control in stage 2": (
        ["stage=sentiment", "control=equal_steps"],
        2,
        ["control=equal_steps: stage=sentiment has no control; it is a setting of stage=mlm"],
    ),
    "a setting that the control lacks": (
        ["stage=mlm", "control=equal_steps", "control.run=runs"],
        2,
        ["control.run=runs: no such setting"],
    ),
    "a run that is not named": (["stage=mlm", "control=equal_time"], 2, ["control.run"]),
    "a run that is not there": (
        ["stage=mlm", *SMALL_STAGE1, "control=equal_time", "control.run=absent"],
        2,
        ["control.run=absent: holds no record of a stage-1 run; give a folder such as runs/mlm/NAME-KEY"],
    ),
    "a control that is none any more": (
        ["stage=mlm", "control=fresh_poolers", "objective=bow", "pretraining.pooler_init=keep", "trainable=all"],
        2,
        [
            "3 mistakes",
            "control=fresh_poolers: has no pooler objective; leave out objective=bow",
            "control=fresh_poolers: pretraining.pooler_init=keep: must be fresh",
            "control=fresh_poolers: pretraining.trainable=all: must be pooler",
        ],
    ),
    "a time of its own for equal time": (
        ["stage=mlm", "control=equal_time", "control.run=runs", "budget=90s"],
        2,
        ["control=equal_time: pretraining.budget=90s: must be left out"],
    ),
    "the pooler of a model from scratch": (
        ["stage=mlm", "control=own_pooler"],
        2,
        ["control=own_pooler: model=tiny is drawn at random and has no pooler of its own"],
    ),
    "a pooler that was never trained": (
        ["stage=mlm", "control=own_pooler", "model=minilm"],
        2,
        ["has no pooler of its own: its pooler is as initialisation leaves it, so it was never trained"],
    ),
    "two stages": (["stage=mlm,sentiment", "-m"], 2, ["stage=mlm,sentiment: one stage at a time"]),
    "many at once": (
        ["stage=mlm", "repr=pooler", "sed=3", "seed=-1", "objective.weight=heavy"],
        2,
        ["4 mistakes", "repr=pooler", "sed=3", "seed=-1: must be at least 0", "objective.weight='heavy'"],
    ),
    "more precision than there is": (["stage=mlm", "trainer.precision=fp16"], 2, ["trainer.precision"]),
    "texts longer than positions": (
        ["stage=mlm", *SMALL_STAGE1, "data.max_length=1000"],
        2,
        ["this encoder has 512 positions"],
    ),
    # files
    "no file named": (["stage=mlm", "data=files"], 2, ["data=files needs data.text"]),
    "missing file": (own(dev="absent.csv"), 2, ["absent.csv cannot be read: No such file"]),
    "missing text": ([*OWN_TEXT, "data.text=absent.txt"], 2, ["absent.txt cannot be read: No such file"]),
    "empty file": (own(test="empty.csv"), 2, ["empty.csv holds no rows"]),
    "header only": (own(test="header.csv"), 2, ["header.csv holds no rows"]),
    "text without text": ([*OWN_TEXT, "data.text=blank.txt"], 2, ["blank.txt holds no text"]),
    "missing column": (own(train="column.csv"), 2, ["column.csv: no column text", "it has words, label"]),
    "one class only": (own(train="one.csv"), 2, ["labels are 'pos', the first in row 1"]),
    "labels that train lacks": (own(test="odd.csv"), 2, ["odd.csv: label 'mixed' (first in row 3) not in good.csv"]),
    "more labels than the head has": (
        ["encoder=base", "data=rotten_tomatoes", "data.path=./five", "data.dev=test", *SMALL_RUN[-6:]],
        2,
        ["./five: the test split has labels 4, 5, and the head has the 2 classes 0, 1 only"],
    ),
    "empty texts": (own(dev="blank.csv"), 2, ["blank.csv: 1 text empty (row 3)"]),
    "not UTF-8": (own(dev="latin.csv"), 2, ["latin.csv, line 4: not UTF-8", "it seems to be cp1252"]),
    "text that is not UTF-8": ([*OWN_TEXT, "data.text=latin.txt"], 2, ["latin.txt, line 2: not UTF-8", "cp1252"]),
    "several files": (
        own(train="latin.csv", dev="blank.csv", test="absent.csv"),
        2,
        ["3 mistakes", "latin.csv, line 4", "blank.csv: 1 text", "absent.csv"],
    ),
    # encoders
    "missing stage-1 encoder": (
        ["stage=sentiment", *SMALL_STAGE2],
        2,
        ["The stage-1 encoder is missing", "python train.py stage=mlm", "encoder=base"],
    ),
    "no such encoder": (["encoder=basee"], 2, ["encoder=basee: no such folder; allowed: stage1, base, or a folder"]),
    "no such model": (["stage=mlm", "model=no/such/folder"], 2, ["no/such/folder is not on this disk"]),
    "a folder that is no encoder": (["stage=mlm", "model=./plain"], 2, ["plain is no encoder: it has no config.json"]),
    "a folder without weights": (["encoder=./bare"], 2, ["bare is no encoder: it has no model.safetensors"]),
    "a pickle": (["stage=mlm", "model=./pickled"], 2, ["a pickle, which can run code"]),
    "another family": (["stage=mlm", "model=./gpt"], 2, ["gpt holds a gpt2 model"]),
    "a file as encoder": (["stage=mlm", "model=good.csv"], 2, ["good.csv is a file; an encoder is a folder"]),
    "a hub model without network": (["stage=mlm", "model=bert_base"], 2, ["is not on this disk", "model=minilm"]),
    "a hub data set without network": (["stage=mlm", "data=sst2"], 2, ["could not be loaded", "use data=demo"]),
    "no tokenizer": (["encoder=./wordless"], 2, ["wordless has no tokenizer: neither tokenizer.json nor vocab.txt"]),
    "a vocabulary without words": (["stage=mlm", "model=./specials"], 2, ["specials: the vocabulary of its tokenizer"]),
    "a broken tokenizer": (["stage=mlm", "model=./garbled"], 2, ["garbled: no tokenizer could be loaded from it"]),
    "truncated weights": (["stage=mlm", "model=./truncated"], 2, ["truncated/model.safetensors is no whole"]),
    "truncated weights in a sweep": (
        ["encoder=./truncated", "repr=cls,mean", "-m"],
        2,
        ["truncated/model.safetensors is no whole"],
    ),
    "weights of other shapes": (
        ["encoder=./narrow"],
        2,
        ["embeddings.word_embeddings.weight has shape [60, 16], and the config asks for [60, 8]", "more do not fit"],
    ),
    "fewer layers than the config says": (
        ["stage=mlm", "model=./deep"],
        2,
        ["deep: model.safetensors does not fit config.json; missing: encoder.layer.1."],
    ),
    "a config that is a list": (["encoder=./listed"], 2, ["listed holds a nameless model (config.json)"]),
    "a broken provenance": (
        ["encoder=./noted", "model=tiny", *SMALL_STAGE2],
        2,
        ["noted/provenance.json cannot be read"],
    ),
    # the trainer
    "half precision on a CPU": (
        ["stage=mlm", "trainer.accelerator=cpu", "trainer.precision=16-true"],
        2,
        ["trainer.precision=16-true: must be one of 32-true, 64-true, bf16-true, bf16-mixed on a CPU"],
    ),
    "a limit that is no number": (["stage=mlm", "+trainer.limit_train_batches=foo"], 2, ["limit_train_batches=foo"]),
    "a time that is none": (["stage=mlm", "+trainer.max_time=abc"], 2, ["trainer.max_time=abc", "DD:HH:MM:SS"]),
    "no step": (["stage=mlm", "+trainer.max_steps=0"], 2, ["trainer.max_steps=0: nothing would be trained"]),
    "no batch": (["stage=mlm", "+trainer.limit_train_batches=0"], 2, ["limit_train_batches=0: nothing would be"]),
    "no dev in stage 2": (["+trainer.limit_val_batches=0"], 2, ["limit_val_batches=0: without dev no epoch can be"]),
    "no accumulated batch": (
        ["stage=mlm", "+trainer.accumulate_grad_batches=0"],
        2,
        ["trainer.accumulate_grad_batches=0: must be at least 1"],
    ),
    "no logging at all": (["stage=mlm", "trainer.log_every_n_steps=null"], 2, ["log_every_n_steps=None: must be a"]),
    "logging every zero steps": (["stage=mlm", "trainer.log_every_n_steps=0"], 2, ["log_every_n_steps=0: must be at"]),
    # numbers
    "an infinite learning rate": (
        ["stage=mlm", "pretraining.optimisation.learning_rate=inf"],
        2,
        ["pretraining.optimisation.learning_rate=inf: must be a finite number"],
    ),
    "a number beyond floats": (["stage=mlm", "objective.weight=1e400"], 2, ["objective.weight=inf: must be a finite"]),
    "a million layers": (["stage=mlm", "model.layers=1000000"], 2, ["must be at least 1 and at most 1000"]),
    # places
    "a folder that cannot be made": (["stage=mlm", "runs_dir=good.csv/runs"], 2, ["good.csv/runs cannot be written"]),
    "a cache that cannot be made": (["stage=mlm", "cache_dir=/proc/x"], 2, ["/proc/x cannot be written"]),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files and encoders that have something wrong with them; the program runs in it."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    for name, config in {"bare": "bert", "pickled": "bert", "gpt": "gpt2", "plain": None}.items():
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(json.dumps({"model_type": config}))
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"")
    (tmp_path / "five").mkdir()
    (tmp_path / "five/train.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "five/test.csv").write_text("text,label\na,4\nb,5\n")
    (tmp_path / "gpt/model.safetensors").write_bytes(b"")
    spoil_encoders(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    GlobalHydra.instance().clear()


def spoil_encoders(place: Path) -> None:
    """Folders of one small BERT, each with one thing wrong."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=60, **sizes)).save_pretrained(place / "wordless")
    for name in ("specials", "garbled", "truncated", "narrow", "deep", "listed", "noted"):
        shutil.copytree(place / "wordless", place / name)
        (place / name / "vocab.txt").write_text("\n".join([*words, *map(chr, range(97, 123))]))
    (place / "specials/vocab.txt").write_text("\n".join(words))
    (place / "garbled/tokenizer.json").write_text("{bad")
    weights = (place / "truncated/model.safetensors").read_bytes()
    (place / "truncated/model.safetensors").write_bytes(weights[:5000])
    config = json.loads((place / "narrow/config.json").read_text())
    (place / "narrow/config.json").write_text(json.dumps(config | {"hidden_size": 8}))
    (place / "deep/config.json").write_text(json.dumps(config | {"num_hidden_layers": 1_000_000}))
    (place / "listed/config.json").write_text("[]")
    (place / "noted/provenance.json").write_text("{bad")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_leaves_nothing_behind(program, place, capfd, mistake):
    arguments, expected, words = MISTAKES[mistake]
    before = sorted(place.rglob("*"))
    code = program(*arguments)
    printed = "".join(capfd.readouterr())
    assert code == expected
    for word in words:
        assert word in printed
    assert "Traceback" not in printed
    assert [path for path in sorted(place.rglob("*")) if path not in before and "cache" not in str(path)] == []


@pytest.mark.parametrize("mistake", ["a hub model without network", "a hub data set without network"])
def test_a_network_that_is_not_there_is_told_soon(program, place, capfd, monkeypatch, mistake):
    """Nothing listens at port 9; the libraries are not told to stay offline."""
    for switch in (constants, datasets.config):
        monkeypatch.setattr(switch, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    machine.answers.cache_clear()
    arguments, expected, words = MISTAKES[mistake]
    start = time.monotonic()
    assert program(*arguments) == expected
    assert time.monotonic() - start < 10
    printed = capfd.readouterr().err
    assert all(word in printed for word in words)


def test_a_hub_that_answers_and_gives_nothing(monkeypatch):
    """As behind a proxy: what to do is said here too."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(machine, "answers", lambda url: True)
    for error in (OSError("no connection\nlong story"), ConnectError("no connection")):
        monkeypatch.setattr(checkpoints, "cached_file", Mock(side_effect=error))
        with pytest.raises(UserError, match=r"does not give it \(no connection\)\. Use a folder .* model=minilm"):
            checkpoints.check_checkpoint("own/bert", refuse_unexpected=False)


def test_a_missing_encoder_is_told_once_and_before_the_first_job(program, place, capfd):
    assert program("stage=sentiment", "repr=cls,mean", *SMALL_STAGE2, "-m") == 2
    printed = "".join(capfd.readouterr())
    assert printed.count("The stage-1 encoder is missing") == 1
    assert "job 1" not in printed
    assert not (place / "runs").exists()


@pytest.mark.slow
def test_a_broken_export_is_told_before_the_first_job(program, place, capfd):
    weights = encoder_folder(program, place) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert program("stage=sentiment", "repr=cls,mean", *SMALL_STAGE2, "-m") == 2
    assert "model.safetensors is not what was written there, by SHA256SUMS" in capfd.readouterr().err
    (weights.parent / "SHA256SUMS").unlink()
    assert program("stage=sentiment", "repr=cls,mean", *SMALL_STAGE2, "-m") == 2
    assert "is no whole safetensors file" in capfd.readouterr().err
    assert not (place / "runs/sentiment").exists()


def test_a_disk_without_room_is_told_before_work_starts(program, place, capfd, monkeypatch):
    full = shutil.disk_usage(place)._replace(free=1_000_000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: full)
    assert program("stage=mlm", *SMALL_STAGE1) == 2
    assert "has 1 MB free, and what is kept of this needs 20 MB" in capfd.readouterr().err
    assert program("stage=sentiment", "encoder=base", *SMALL_STAGE2, "-m") == 2
    assert "needs 61 MB" in capfd.readouterr().err
    assert not (place / "runs").exists()


def test_an_encoder_that_was_trained_for_other_classes(program, place):
    """Its head is left aside and a fresh one of the data's classes is drawn, so that no label is beyond it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shutil.copytree(encoder_folder(program, place), place / "classifier")
    vocabulary = json.loads((place / "classifier/config.json").read_text())["vocab_size"]
    model = BertForSequenceClassification(BertConfig(vocab_size=vocabulary, num_labels=5, **sizes))
    model.save_pretrained(place / "classifier")
    for name in ("provenance.json", "SHA256SUMS"):
        (place / "classifier" / name).unlink()
    assert (
        program("stage=sentiment", "encoder=./classifier", "model=tiny", "repr=pooler", *SMALL_STAGE2, "logger=csv")
        == 0
    )
    (record,) = (place / "runs/sentiment").glob("*/record.json")
    assert json.loads(record.read_text())["label_names"] == ["negative", "positive"]


def encoder_folder(program, place: Path) -> Path:
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == 0
    (folder,) = (place / "runs/mlm").glob("*/export")
    return folder
