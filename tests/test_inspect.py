import json
import re
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertModel, GPT2Config, GPT2Model

from poolwise import inspect
from poolwise.checkpoints import check_checkpoint
from poolwise.encoder import export
from poolwise.inspect import inspect_checkpoint
from poolwise.settings import UserError

PROVENANCE = {
    "pooler_status": "stale",
    "model": "tiny",
    "objective": "bow",
    "warning": "the pooler got no gradient",
    "pooler_geometry": {
        "effective_rank": 12.34,
        "mean_cosine": 0.5,
        "alignment": 0.25,
        "uniformity": -1.5,
        "saturated_share": 0.1,
    },
    "cls_geometry": {"effective_rank": 9.0, "mean_cosine": 0.75, "alignment": 0.5, "uniformity": -1.0},
    "parts": {"pooler": {"origin": "base", "losses": ["bow"], "steps": 7, "distance_moved": 0.5}},
}


@pytest.fixture
def inspected(monkeypatch, capsys):
    """The command in this process: its exit code, and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["inspect", *arguments])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as leaving:
            inspect.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return leaving.value.code, printed.out + printed.err

    return run


@pytest.fixture
def plain(config, tmp_path) -> Path:
    torch.manual_seed(1)
    BertForMaskedLM(config).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def with_pooler(config, folder: Path, bias: float, **options) -> Path:
    model = BertModel(config)
    torch.nn.init.constant_(model.pooler.dense.bias, bias)
    model.save_pretrained(folder, **options)
    return folder


def test_a_plain_mlm_checkpoint_has_no_pooler(plain, inspected):
    found = inspect_checkpoint(plain)
    assert found.status == "missing"
    assert found.missing == {"pooler.dense.weight", "pooler.dense.bias"}
    assert found.unexpected == set()
    assert found.heads
    assert all(key.startswith("cls.") for key in found.heads)
    assert found.difference > 0
    assert found.states_difference == 0
    code, printed = inspected(str(plain))
    assert code == 1
    assert "missing: each load draws one at random" in printed
    assert "NOT the same in two loads" in printed
    assert "2: pooler.dense.bias, pooler.dense.weight" in printed
    assert f"cls ({len(found.heads)} keys)" in printed
    lines = printed.splitlines()
    command = next(line for line in lines if line.startswith("to train it"))
    assert f"model={plain} trainable=pooler data=files" in command
    assert all(len(line) <= 80 for line in lines if str(plain) not in line)


@pytest.mark.parametrize(("representation", "code"), [("pooler", 1), ("cls", 0), ("mean", 0), ("cls_linear", 0)])
def test_the_exit_code_is_1_where_a_pooler_is_needed_and_absent(plain, inspected, representation, code):
    assert inspected(str(plain), "--repr", representation)[0] == code


@pytest.mark.parametrize(("bias", "status"), [(0.0, "never trained"), (0.5, "as released")])
def test_a_foreign_pooler(config, tmp_path, inspected, bias, status):
    folder = with_pooler(config, tmp_path, bias)
    found = inspect_checkpoint(folder)
    assert (found.status, found.missing, found.unexpected, found.heads) == (status, set(), set(), set())
    assert found.difference == 0
    code, printed = inspected(str(folder))
    assert code == (1 if status == "never trained" else 0)
    assert inspected(str(folder), "--repr", "cls")[0] == 0
    assert f"{status}: in the file" in printed
    assert "no provenance.json of poolwise" in printed


def test_a_pooler_as_torch_draws_it_was_never_trained(config, tmp_path, inspected):
    config.hidden_size = 128
    model = BertModel(config)
    torch.manual_seed(0)
    model.pooler.dense.reset_parameters()
    model.save_pretrained(tmp_path)
    assert inspect_checkpoint(tmp_path).status == "never trained"
    assert inspected(str(tmp_path))[0] == 1


def test_an_own_export(model, tokenizer, tmp_path, inspected):
    export(model, tokenizer, PROVENANCE, "# card", tmp_path / "export")
    code, printed = inspected(str(tmp_path / "export"))
    assert code == 0
    printed = re.sub(r"\s+", " ", printed)
    for words in (
        "stale: the encoder moved under it",
        "the same in two loads (largest difference of a unit: 0)",
        "base; losses: bow; steps with a gradient: 7; moved 0.5",
        "effective rank 12.3, mean cosine 0.50, alignment 0.250, uniformity -1.50, saturated 10%",
        "cls on dev effective rank 9.0, mean cosine 0.75, alignment 0.500, uniformity -1.00 warning",
        f"to train it python train.py stage=mlm model={tmp_path / 'export'} trainable=pooler data=files data.text=YOUR",
        "warning the pooler got no gradient",
    ):
        assert words in printed


def test_a_note_of_another_program_is_left_aside(config, tmp_path):
    folder = with_pooler(config, tmp_path, 0.5)
    (folder / "provenance.json").write_text('{"parts": []}')
    found = inspect_checkpoint(folder)
    assert (found.status, found.provenance) == ("as released", {})


def test_the_difference_is_that_of_two_loads(plain, monkeypatch):
    loads = []
    original = inspect._load
    monkeypatch.setattr(inspect, "_load", lambda folder: loads.append(original(folder)) or loads[-1])
    found = inspect_checkpoint(plain)
    ids = torch.arange(16).unsqueeze(0)
    first, second = (model(ids).pooler_output.detach() for model, _ in loads)
    assert found.difference == pytest.approx((first - second).abs().max().item())


def test_a_checkpoint_in_pieces(config, tmp_path):
    folder = with_pooler(config, tmp_path, 0.5, max_shard_size="20KB")
    assert not (folder / "model.safetensors").exists()
    found = inspect_checkpoint(folder)
    assert len(found.files) > 1
    assert sum(len(load_file(file)) for file in found.files) == len(BertModel(config).state_dict())
    assert (found.status, found.missing, found.difference) == ("as released", set(), 0.0)
    found.files[0].unlink()
    with pytest.raises(UserError, match=f"files that are not there: {found.files[0].name}"):
        inspect_checkpoint(folder)


def test_an_encoder_that_is_not_whole(config, tmp_path, inspected):
    folder = with_pooler(config, tmp_path, 0.5)
    changed = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(changed))
    found = inspect_checkpoint(folder)
    assert all(key.startswith("encoder.layer.2.") for key in found.missing)
    assert found.states_difference > 0
    assert inspected(str(folder), "--repr", "cls")[0] == 1


def test_a_note_of_other_weights_is_left_aside(model, tokenizer, tmp_path, inspected):
    folder = tmp_path / "export"
    export(model, tokenizer, {**PROVENANCE, "pooler_status": "trained"}, "# card", folder)
    assert inspect_checkpoint(folder).status == "trained"
    model.bert.pooler.dense.reset_parameters()
    torch.nn.init.zeros_(model.bert.pooler.dense.bias)
    model.save_pretrained(folder)
    found = inspect_checkpoint(folder)
    assert (found.status, found.provenance) == ("never trained", {})
    assert inspected(str(folder))[0] == 1


def setting(key: str, value: object):
    """Puts a value into config.json."""

    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: value}))

    return spoil


def provenance(**changed: object):
    """Puts a provenance.json there, with changes."""
    return lambda folder: (folder / "provenance.json").write_text(json.dumps(PROVENANCE | changed))


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 20}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "that could be read (Expecting property name",
        ),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds a nameless model (config.json)"),
        (lambda folder: (folder / "model.safetensors").unlink(), "it has no model.safetensors"),
        (broken_weights, "is no whole safetensors file"),
        (pickle_only, "a pickle, which can run code when it is read"),
        (other_sizes, "its weights do not fit its config"),
        (lambda folder: (folder / "provenance.json").write_text("?"), "provenance.json cannot be read"),
        (provenance(parts={"pooler": {"origin": 3}}), "provenance.json cannot be read"),
        (provenance(pooler_geometry=[1]), "provenance.json cannot be read"),
        (setting("num_hidden_layers", "x"), "its weights do not fit its config"),
        (setting("hidden_size", 0), "its weights do not fit its config"),
        (setting("hidden_act", "nope"), "its weights do not fit its config"),
        (setting("vocab_size", 0), "plain"),
        (not_finite, "the weights are not finite"),
    ],
)
def test_mistakes_are_one_message(plain, inspected, spoil, words):
    spoil(plain)
    code, printed = inspected(str(plain))
    assert code == 2
    assert printed.startswith("poolwise: ")
    assert words in printed


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "weights.pth"])
def test_any_pickle_is_refused_with_the_reason(plain, inspected, name):
    (plain / "model.safetensors").rename(plain / name)
    code, printed = inspected(str(plain))
    assert code == 2
    assert f"its weights in {name}, a pickle, which can run code when it is read" in printed


def test_a_file_is_no_folder(plain, inspected):
    code, printed = inspected(str(plain / "model.safetensors"))
    assert code == 2
    assert "is a file; an encoder is a folder with config.json" in printed


@pytest.mark.parametrize("broken", [{"pooler_status": ["x"]}, {"pooler_status": "trained", "parts": []}])
def test_a_note_of_wrong_types_is_left_aside(config, tmp_path, broken):
    folder = with_pooler(config, tmp_path, 0.5)
    (folder / "provenance.json").write_text(json.dumps(broken))
    assert inspect_checkpoint(folder).provenance == {}


def test_no_folder(tmp_path, inspected):
    assert inspected(str(tmp_path / "none")) == (2, f"poolwise: {tmp_path / 'none'}: no such folder\n")


def test_a_hub_name_is_that_of_files_on_this_disk_or_told_as_in_stage_1(config, tmp_path, monkeypatch, inspected):
    place = tmp_path / "hub/models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(40 * "a")
    with_pooler(config, place / "snapshots" / (40 * "a"), 0.0)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    code, printed = inspected("owner/name")
    assert code == 1
    assert re.search(r"hub name +owner/name\n", printed)
    assert "model=owner/name trainable=pooler" in printed
    code, printed = inspected("owner/other")
    assert code == 2
    with pytest.raises(UserError) as told:
        check_checkpoint("owner/other", refuse_unexpected=False)
    assert printed == f"poolwise: {told.value}\n"
    assert "owner/other is not on this disk, and the hub" in printed


def test_the_folder_of_a_run_points_at_its_export(model, tokenizer, tmp_path, inspected):
    export(model, tokenizer, PROVENANCE, "# card", tmp_path / "export")
    words = f"poolwise: {tmp_path} is the folder of a run; its encoder is {tmp_path / 'export'}\n"
    assert inspected(str(tmp_path)) == (2, words)


def test_another_family(tmp_path, inspected):
    GPT2Model(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    code, printed = inspected(str(tmp_path))
    assert code == 2
    assert "holds a gpt2 model (config.json); supported families: BERT (bert), RoBERTa" in printed


def test_a_folder_without_tokenizer_and_a_pooler_to_train_are_told(inspected, config, tmp_path):
    BertModel(config).save_pretrained(tmp_path)
    code, printed = inspected(str(tmp_path))
    assert code == 1
    assert "tokenizer      none: neither stage can use this folder" in printed
    assert f"to train it    python train.py stage=mlm model={tmp_path} trainable=pooler data=files" in printed
