"""What lies in somebody's files runs no code, leads nowhere else, and leaves no secret behind.

Each planted pickle would write a file `marker`, which no test may find.
"""

import html
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
import wandb
from datasets import Dataset
from hydra.core.global_hydra import GlobalHydra
from pyarrow import parquet
from transformers import BertConfig, BertModel

from helpers import EXAMPLES, SMALL_STAGE2, read_wandb, settings, write_run
from poolwise.checkpoints import check_checkpoint, load_tokenizer
from poolwise.compare.report import write_report
from poolwise.compare.wandb_runs import fetch_runs
from poolwise.data.corpus import content_hash
from poolwise.data.parts import find_parts
from poolwise.data.sources import load_corpus
from poolwise.data.tokens import tokenise
from poolwise.durable import seal
from poolwise.inspect import inspect_checkpoint
from poolwise.report import main as report_main
from poolwise.runs import read_record, write_record
from poolwise.settings import UserError
from poolwise.stages.vectors import KINDS, StatesOnDisk
from wandb_service import ENTITY, ReceivedRun

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class Planted:
    """A pickle of this writes the marker file when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def planted(tmp_path):
    yield Planted(tmp_path / "marker")
    assert not (tmp_path / "marker").exists()


@pytest.fixture(autouse=True)
def hydra_is_left_clean():
    yield
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust") / "sound"
    BertModel(BertConfig(vocab_size=len(WORDS), **SIZES)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder


@pytest.fixture
def encoder(sound, tmp_path):
    """A copy of a sound encoder, beside which code lies that must not run."""
    folder = shutil.copytree(sound, tmp_path / "encoder")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    return folder


def config_with(**entries: object):
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | entries))

    return spoil


def weights_of(header: object, length: int | None = None):
    """A safetensors file of four bytes of weights that says such things of itself."""

    def spoil(folder: Path) -> None:
        written = json.dumps(header).encode()
        size = struct.pack("<Q", len(written) if length is None else length)
        (folder / "model.safetensors").write_bytes(size + written + bytes(4))

    return spoil


def tensor(shape: list[int], end: int) -> dict[str, object]:
    return {"embeddings.word_embeddings.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Planted(folder.parent / "marker"), folder / "pytorch_model.bin")


ENCODERS = {
    "code of its own": (config_with(auto_map={"AutoModel": "own.Model"}), "by auto_map, for code of its own, which is"),
    "a kernel of the hub": (config_with(attn_implementation="some/kernel"), "a kernel of the hub, some/kernel, whose"),
    "other weights": (config_with(transformers_weights="../x.safetensors"), "weights in another file than model.safe"),
    "quantised": (config_with(quantization_config={"quant_method": "bitsandbytes"}), "weights that are quantised"),
    "an adapter": (adapter, "holds an adapter (adapter_config.json) of another model"),
    "deep": (lambda folder: (folder / "config.json").write_text("[" * 200_000), "maximum recursion depth exceeded"),
    "a pickle": (only_a_pickle, "a pickle, which can run code when it is read"),
    "a header of 4 EiB": (weights_of({}, 2**62), "is no whole safetensors file (Error while deserializing header"),
    "a header beyond the file": (
        weights_of({}, 10**7),
        "is no whole safetensors file (Error while deserializing header",
    ),
    "a shape beyond numbers": (weights_of(tensor([2**40, 2**40], 4)), "overflow computing buffer size"),
    "a tensor beyond the file": (weights_of(tensor([1], 2**60)), "is no whole safetensors file"),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_an_encoder_that_asks_for_more_is_refused(encoder, planted, case):
    spoil, words = ENCODERS[case]
    spoil(encoder)
    for read in (lambda: check_checkpoint(str(encoder), refuse_unexpected=True), lambda: inspect_checkpoint(encoder)):
        with pytest.raises(UserError) as error:
            read()
        assert words in str(error.value)


def test_an_adapter_of_the_hub_is_refused_as_one_in_a_folder(encoder, tmp_path, monkeypatch):
    """Files as the hub's client keeps them, and no network."""
    kept = tmp_path / "hub/models--owner--name"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("1")
    shutil.copytree(encoder, kept / "snapshots/1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    check_checkpoint("owner/name", refuse_unexpected=True)
    adapter(kept / "snapshots/1")
    with pytest.raises(UserError, match=r"owner/name holds an adapter \(adapter_config\.json\)"):
        check_checkpoint("owner/name", refuse_unexpected=True)


def test_a_pickle_beside_the_weights_and_code_beside_the_tokenizer_are_left(encoder, planted, caplog):
    torch.save(planted, encoder / "pytorch_model.bin")
    check_checkpoint(str(encoder), refuse_unexpected=True)
    assert inspect_checkpoint(encoder).missing == set()
    config = {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}, "tokenizer_class": "BertTokenizer"}
    (encoder / "tokenizer_config.json").write_text(json.dumps(config))
    assert len(load_tokenizer(str(encoder))) == len(WORDS)
    assert "its tokenizer brings code of its own, which is not run" in caplog.text
    (encoder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "Own"}))
    with pytest.raises(UserError, match="no tokenizer could be loaded from it"):
        load_tokenizer(str(encoder))


def test_pieces_outside_of_the_folder_are_refused(encoder):
    (encoder / "model.safetensors").rename(encoder.parent / "x.safetensors")
    (encoder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    with pytest.raises(UserError, match=r"names files outside of its folder: \.\./x\.safetensors"):
        inspect_checkpoint(encoder)


def rows_of(path: Path) -> list[dict]:
    return [row for parts in find_parts(str(path)).values() for part in parts for _, row in part.rows()]


@pytest.fixture
def saved(tmp_path):
    """A data set of save_to_disk, and another one outside of it."""
    for name in ("data", "outside"):
        Dataset.from_dict({"text": [f"{name} a", f"{name} b"], "label": [0, 1]}).save_to_disk(tmp_path / name)
    return tmp_path / "data"


def test_a_saved_data_set_that_is_not_what_it_says_is_refused(saved, planted):
    arrow, state = saved / "data-00000-of-00001.arrow", saved / "state.json"
    whole, noted = arrow.read_bytes(), state.read_text()
    assert len(rows_of(saved)) == 2
    cases = [
        (arrow, pickle.dumps(planted), "not a whole Arrow file (it is cut off)"),
        (arrow, whole[:-8], "not a whole Arrow file (it is cut off)"),
        (arrow, b"", "not a whole Arrow file (it is cut off)"),
        (state, noted.replace("data-0", "../outside/data-0").encode(), "outside of its folder: ../outside/data-0"),
        (state, b'{"_data_files": [{"filename": "/etc/passwd"}]}', "outside of its folder: /etc/passwd"),
        (state, b"[" * 200_000, "not a whole data set of save_to_disk"),
        (saved / "dataset_info.json", b'{"features": {"text": {"_type": "os.system"}}}', "type 'os.system' not found"),
        (saved / "dataset_dict.json", b'{"splits": ["../outside"]}', "outside of its folder: ../outside"),
    ]
    for file, content, words in cases:
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(content)
        with pytest.raises(UserError) as error:
            rows_of(saved)
        assert words in str(error.value)
        file.unlink() if before is None else file.write_bytes(before)


def test_a_pickle_in_a_column_type_of_arrow_is_not_read(tmp_path, planted):
    """Held away: CVE-2023-47248 of older pyarrow."""
    noted = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(planted)}
    schema = pyarrow.schema([pyarrow.field("text", pyarrow.string(), metadata=noted)])
    parquet.write_table(pyarrow.table([["a", "b"]], schema=schema), tmp_path / "a.parquet")
    assert [row["text"] for row in rows_of(tmp_path / "a.parquet")] == ["a", "b"]


def test_pickles_in_numpys_files_and_in_checkpoints_are_refused(tmp_path, planted, texts):
    for kind in KINDS:
        np.save(tmp_path / f"{kind}.npy", np.array([planted], dtype=object))
        seal(tmp_path / f"{kind}.npy")
    with pytest.raises(ValueError, match="Array can't be memory-mapped"):  # then they are made anew
        StatesOnDisk(tmp_path, texts)
    torch.save({"state_dict": {}, "x": planted}, tmp_path / "best.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(tmp_path / "best.ckpt", weights_only=True)


def test_a_sheet_whose_text_would_fill_the_memory_is_refused(tmp_path):
    import openpyxl

    workbook, packed = openpyxl.Workbook(), io.BytesIO()
    workbook.active.append(["text"])
    workbook.save(packed)
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    sheet = (
        f'<!DOCTYPE x [<!ENTITY e0 "laughter">{entities}]><worksheet xmlns="http://schemas.openxmlformats.org/'
        'spreadsheetml/2006/main"><sheetData><row><c t="inlineStr"><is><t>&e9;</t></is></c></row></sheetData>'
        "</worksheet>"
    )
    with zipfile.ZipFile(packed) as whole, zipfile.ZipFile(tmp_path / "a.xlsx", "w") as bomb:
        for name in whole.namelist():
            bomb.writestr(name, sheet if name == "xl/worksheets/sheet1.xml" else whole.read(name))
    with pytest.raises(UserError, match=r"a\.xlsx: not a whole \.xlsx file"):
        rows_of(tmp_path / "a.xlsx")


@pytest.mark.parametrize("kind", ["ids", "arrow"])
def test_tokens_that_were_cut_off_are_made_anew(tokenizer, tmp_path, caplog, kind):
    rows = Dataset.from_dict({"text": ["good", "dull"] * 4})
    first = tokenise(rows, tokenizer, 8, tmp_path)
    (file,) = tmp_path.glob(f"*.{kind}")
    whole = file.read_bytes()
    for kept in (whole[:-8], whole[:20], b""):
        file.unlink()
        file.write_bytes(kept)
        assert tokenise(rows, tokenizer, 8, tmp_path).ids.tolist() == first.ids.tolist()
    assert file.read_bytes() == whole
    assert caplog.text.count("not what was written, and made anew") == 3


@pytest.mark.parametrize("content", ["[]", "3", "{}", "[" * 200_000, '{"key": "a"', "\0"])
def test_a_record_of_something_else_is_no_record(tmp_path, caplog, content):
    (tmp_path / "record.json").write_text(content)
    assert read_record(tmp_path) is None
    assert "is broken and left out" in caplog.text


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch marker']", "!!python/name:os.system"])
def test_tags_in_yaml_run_nothing(program, tmp_path, planted, capfd, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/own.yaml").write_text(f"seed: {tag}\n")
    assert program("--config-dir", "conf", "--config-name", "own") == 1
    assert "could not determine a constructor for the tag" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_wandb_was_not_asked_for_is_not_written(service, tmp_path, monkeypatch):
    facts = {"displayName": "../../name", "groupName": "g", "jobType": "sentiment", "project": "poolwise"}
    files = {"../../../../planted": b"x"}
    service.projects.append("poolwise")
    service.runs["run0"] = ReceivedRun(facts, {"key": 64 * "a"}, files=files, exit_code=0)
    original = wandb.apis.public.Run.files
    monkeypatch.setattr(wandb.apis.public.Run, "files", lambda self, names: original(self))  # gives what it has
    with pytest.raises(UserError, match=r"W&B gave the file '\.\./\.\./\.\./\.\./planted', which nobody asked for"):
        fetch_runs(f"{ENTITY}/poolwise", tmp_path / "here/runs")
    assert list(tmp_path.rglob("planted")) == []


SECRETS = {"HF_TOKEN": "hf_" + 30 * "q", "WANDB_API_KEY": "local-" + 40 * "7", "MY_PASSWORD": "swordfish-0xdeadbeef"}


def files_holding(folder: Path, words: str) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and words.encode() in file.read_bytes()]


@pytest.mark.slow
def test_no_secret_and_no_text_leaves_unless_asked_for(program, tmp_path, monkeypatch, capfd):
    """Two epochs of one batch size on few texts: some dev texts are answered wrong."""
    small = ["stage=sentiment", "encoder=base", *SMALL_STAGE2, "logger.mode=offline"]
    monkeypatch.setenv("MY_PASSWORD", SECRETS["MY_PASSWORD"])
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    wanted = ["-m", "seed=1", f"runs_dir={tmp_path / 'runs'}"]
    # The fixture `program` takes WANDB_API_KEY away, so it is put back here.
    monkeypatch.setenv("WANDB_API_KEY", SECRETS["WANDB_API_KEY"])
    assert program(*small, *wanted) == 0
    assert program(*small, f"runs_dir={tmp_path / 'told'}", "logger.upload_texts=true") == 0
    write_report(tmp_path / "runs")
    printed = capfd.readouterr()
    for secret in SECRETS.values():
        assert secret not in printed.out + printed.err
        assert files_holding(tmp_path, secret) == []
    (run,) = [json.loads(file.read_text()) for file in tmp_path.glob("told/sentiment/*/record.json")]
    assert "dev/mistakes" in read_wandb(run["wandb"]["folder"])["summary"]
    (table,) = (tmp_path / "told/wandb").rglob("*.table.json")
    found = json.loads(table.read_text())
    assert found["columns"] == ["text", "label", "answer"]
    assert len(found["data"]) == round((1 - run["metrics"]["dev/accuracy"]) * 32) > 0
    assert all(label != answer for _, label, answer in found["data"])
    for text, _, _ in found["data"]:
        assert files_holding(tmp_path / "runs/wandb", text) == []


def test_reports_show_what_a_file_says_as_text(tmp_path, monkeypatch):
    evil = "<script>alert(1)</script>"
    for split in ("train", "dev", "test"):
        rows = [json.dumps({"text": f"{evil} {split} {n}", "label": "ab"[n % 2]}) for n in range(EXAMPLES)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    files = [f"data.{split}={tmp_path}/{split}.jsonl" for split in ("train", "dev", "test")]
    config = settings("data=files", *files).config
    texts = load_corpus(settings("data=files", *files).data).labelled["test"]
    for seed in (1, 2):
        for name, wrong in (("cls", [3]), ("mean", [5])):
            folder = write_run(tmp_path / "runs", name, seed, wrong, dev=0.9, objective=evil)
            record = json.loads((folder / "record.json").read_text())
            record |= {"label_names": [evil, "positive"], "data": evil, "model": evil, "config": config}
            record["material"]["labelled"] = {"test": content_hash(texts)}
            record["representation"]["formula"] = f"[{evil}](javascript:alert(1))"
            write_record(folder, record)
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path / "runs"), "--wandb"])
    report_main()
    folder = tmp_path / "runs/report"
    page = (folder / "index.html").read_text()
    assert f"{html.escape(evil)} test 5" in page
    assert html.escape(evil) in page.partition("</h1>")[2]
    assert "<script" not in page
    assert [file for file in folder.rglob("*.svg") if "<script" in file.read_text()] == []
    for markdown in ((folder / "report.md").read_text(), *blocks_of_markdown(folder / "wandb_report_spec.json")):
        assert re.findall(r"(?<!\\)<script|(?<!\\)\]\(javascript", markdown) == []
    assert "\\<script>" in (folder / "report.md").read_text()


def blocks_of_markdown(spec: Path) -> list[str]:
    """What of a W&B report is read as Markdown; all else in it is text."""
    found: list[str] = []

    def visit(value: object) -> None:
        if isinstance(value, dict):
            found.extend([value["content"]] if value.get("type") == "markdown-block" else [])
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            visit(each)

    visit(json.loads(spec.read_text()))
    assert found
    return found
