import logging

import numpy as np
import pytest
import torch
from transformers import BertModel

from poolwise.data.batching import LabelledBatches
from poolwise.durable import seal
from poolwise.representations import REPRESENTATIONS, EncoderShape
from poolwise.settings import UserError
from poolwise.stages import vectors
from poolwise.stages.sentiment import SentimentClassifier
from poolwise.stages.vectors import BatchesWithLayers, StatesOnDisk, stored_states, vectors_of


@pytest.fixture
def deep(config) -> BertModel:
    config.num_hidden_layers = 4
    torch.manual_seed(1)
    return BertModel(config)


def test_what_is_kept_is_of_every_layer_of_each_text_alone(deep, texts, tmp_path):
    kept = stored_states(deep, texts, tmp_path / "states", "cpu").kept
    assert {kind: (rows.shape, rows.dtype) for kind, rows in kept.items()} == dict.fromkeys(
        ("first", "mean", "max"), ((5, len(texts), deep.config.hidden_size), np.dtype("float32"))
    )
    for number in range(len(texts)):
        ids = torch.from_numpy(texts.padded(np.array([number]))[0])
        with torch.inference_mode():
            output = deep(ids, torch.ones_like(ids), output_hidden_states=True)
        for layer, states in enumerate(output.hidden_states):
            for kind, expected in (("first", states[0, 0]), ("mean", states[0].mean(0)), ("max", states[0].amax(0))):
                torch.testing.assert_close(torch.from_numpy(kept[kind][layer, number].copy()), expected)


NOT_LEARNED = [name for name, kind in REPRESENTATIONS.items() if not kind.learned]


@pytest.mark.parametrize("layer", [None, 4])
@pytest.mark.parametrize("name", NOT_LEARNED)
def test_vectors_of_stored_states_are_those_of_the_texts(deep, texts, tmp_path, name, layer):
    representation = REPRESENTATIONS[name](EncoderShape.of(deep.config), layer=layer)
    states = stored_states(deep, texts, tmp_path / "states", "cpu")
    found = vectors_of(representation, deep.pooler, states, np.arange(len(texts)))
    token_ids, present = texts.padded(np.arange(len(texts)))
    mask = torch.from_numpy(present.astype(np.int64))
    with torch.inference_mode():
        states = deep(torch.from_numpy(token_ids), mask, output_hidden_states=True).hidden_states
        expected = representation(states, mask, deep.pooler)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pooler", "max", "cls_mean", "layer_mix"])
def test_the_windows_of_a_text_are_stored_one_by_one(deep, windowed, tmp_path, name):
    representation = REPRESENTATIONS[name](EncoderShape.of(deep.config))
    states = stored_states(deep, windowed, tmp_path / "states", "cpu")
    assert states.kept["first"].shape[1] == len(windowed.windows) > len(windowed)
    some = np.array([3, 1])
    batches, pooler = LabelledBatches(windowed.select(some)), deep.pooler
    found = vectors_of(representation, pooler, states, some)
    batch = BatchesWithLayers(batches, states, some, representation.needs_all_states)[[(0, 0), (0, 1)]]
    built = SentimentClassifier(deep, representation, classes=2, dropout=0.0).eval()
    with torch.inference_mode():
        read = built.vectors(batch)
        deep.pooler, built.encoder = pooler, None
        stored = built.vectors(batch)
    torch.testing.assert_close(stored, read, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(found), stored)


@pytest.mark.parametrize(
    ("name", "layer", "read"),
    [("mean", 3, [("mean", 3)]), ("cls_mean", None, [("first", 4), ("mean", 4)]), ("pooler", 1, [("first", 1)])],
)
def test_of_the_stored_states_only_what_a_representation_reads_is_read(deep, texts, tmp_path, name, layer, read):
    representation = REPRESENTATIONS[name](EncoderShape.of(deep.config), layer=layer)
    states = stored_states(deep, texts, tmp_path / "states", "cpu")
    expected = vectors_of(representation, deep.pooler, states, np.arange(len(texts)))
    seen = []

    class Watched:
        def __init__(self, kind):
            self.kind, self.array = kind, states.kept[kind]

        def __len__(self):
            return len(self.array)

        def __getitem__(self, place):
            seen.append((self.kind, place[0]))
            return self.array[place]

    watched = StatesOnDisk(tmp_path / "states", texts)
    watched.kept = {kind: Watched(kind) for kind in vectors.KINDS}
    found = vectors_of(representation, deep.pooler, watched, np.arange(len(texts)))
    assert sorted(seen) == read
    assert (found == expected).all()


def test_texts_are_read_once(deep, texts, tmp_path, monkeypatch):
    first = stored_states(deep, texts, tmp_path / "states", "cpu")
    monkeypatch.setattr(vectors, "encode", lambda *arguments: pytest.fail("read again"))
    again = stored_states(deep, texts, tmp_path / "states", "cpu")
    assert all((first.kept[kind] == again.kept[kind]).all() for kind in vectors.KINDS)


def test_states_appear_whole_or_not_at_all(deep, texts, tmp_path, monkeypatch):
    def stopped(encoder, rows, folder, device):
        (folder / "first.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vectors, "encode", stopped)
        with pytest.raises(KeyboardInterrupt):
            stored_states(deep, texts, tmp_path / "states", "cpu")
    assert list(tmp_path.glob("states*")) == []


def test_another_run_may_be_as_quick(deep, texts, tmp_path, monkeypatch):
    encode = vectors.encode

    def while_another_finishes(encoder, rows, folder, device):
        encode(encoder, rows, folder, device)
        (tmp_path / "states").mkdir()
        encode(encoder, rows, tmp_path / "states", device)

    monkeypatch.setattr(vectors, "encode", while_another_finishes)
    found = stored_states(deep, texts, tmp_path / "states", "cpu")
    assert found.kept["mean"].shape[1] == len(texts)
    assert [folder.name for folder in tmp_path.glob("states*")] == ["states"]


@pytest.mark.parametrize("size", [0, 60, 400])
def test_a_broken_file_is_told_and_made_anew(deep, texts, tmp_path, caplog, size):
    whole = stored_states(deep, texts, tmp_path / "states", "cpu").kept["mean"].copy()
    file = tmp_path / "states/mean.npy"
    file.write_bytes(file.read_bytes()[:size])
    with caplog.at_level(logging.WARNING):
        found = stored_states(deep, texts, tmp_path / "states", "cpu")
    assert f"{tmp_path / 'states'}: broken" in caplog.text
    assert (found.kept["mean"] == whole).all()


def test_no_file_with_objects_is_read(texts, tmp_path):
    for kind in vectors.KINDS:
        np.save(tmp_path / f"{kind}.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        seal(tmp_path / f"{kind}.npy")
    with pytest.raises(ValueError, match="Python objects in dtype"):
        StatesOnDisk(tmp_path, texts)


def test_a_full_disk_is_told_before_texts_are_read(deep, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="make room"):
        stored_states(deep, texts, tmp_path / "states", "cpu")
    assert list(tmp_path.glob("states*")) == []
