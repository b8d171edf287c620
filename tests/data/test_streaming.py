"""Batches of a stream: each text once a pass, the same whatever the number of workers, and those of a kept corpus."""

import gc
import gzip
import json
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from helpers import MASKING
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import LengthGroupedBatches, MaskedBatches
from poolwise.data.contamination import keys_of
from poolwise.data.corpus import TextStream
from poolwise.data.files import load_files
from poolwise.data.parts import _streamed_from_hub, find_parts
from poolwise.data.streaming import BatchMaking, Blocks, StreamedBatches
from poolwise.data.tokens import tokenise
from poolwise.data.topics import topics_of
from poolwise.jobs.corpus import checked_corpus
from poolwise.settings import FilesData, LongTexts, UserError

LINES = [" ".join(["a film"] * (n // 9 + 1) + ["dull"] * (n % 9)) for n in range(45)]
"""No two are the same, and the tokenizer knows all of it."""
PLAIN = BatchNeeds()
LENGTH = 48


def reading(lines):
    return iter(lines)


@pytest.fixture
def batches(tokenizer):
    """The loader over a stream of lines."""

    def make(lines=LINES, workers=0, start=(0, 0), seed=1, buffer=20, needs=PLAIN, batch_size=4, **stream):
        making = BatchMaking(tokenizer, LENGTH, LongTexts(), MASKING, seed, needs, batch_size, None)
        return StreamedBatches(
            Blocks(TextStream(partial(reading, lines), "", buffer, **stream), making), workers, start
        )

    return make


def texts_of(batch, tokenizer) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["original_ids"]]


def one_pass(loader, epoch=0) -> list:
    loader.set_epoch(epoch)
    return list(loader)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in ("input_ids", "labels", "original_ids", "masked_positions"):
            assert torch.equal(one[name], other[name])


def test_each_text_is_seen_once_a_pass_and_workers_change_nothing(batches, tokenizer):
    alone, shared = batches(), batches(workers=2)
    passes = [one_pass(alone, epoch) for epoch in (0, 1)]
    for epoch, found in enumerate(passes):
        assert sorted(text for batch in found for text in texts_of(batch, tokenizer)) == sorted(LINES)
        assert_same(one_pass(shared, epoch), found)
    assert [len(batch["labels"]) for batch in passes[0]] == [4] * 10 + [3, 2]
    order = [[texts_of(batch, tokenizer) for batch in found] for found in passes]
    assert order[0] != order[1]
    assert sorted(order[0][:5]) != [LINES[:20][start : start + 4] for start in range(0, 20, 4)]
    for block, (begin, end) in enumerate([(0, 20), (20, 40), (40, 45)]):
        inside = [text for batch in order[0][5 * block : 5 * block + 5] for text in batch]
        assert sorted(inside) == sorted(LINES[begin:end])


def test_order_and_masks_are_a_function_of_the_seed(batches, tokenizer):
    assert_same(one_pass(batches()), one_pass(batches()))
    others = [texts_of(batch, tokenizer) for batch in one_pass(batches(seed=2))]
    assert others != [texts_of(batch, tokenizer) for batch in one_pass(batches())]


@pytest.mark.parametrize("arrangement", [None, "halves", "views", "order", "next"])
def test_a_buffer_that_holds_all_gives_the_batches_of_a_kept_corpus(batches, tokenizer, tmp_path, arrangement):
    lines = [f"{line}. A dull film. {line}!" for line in LINES]
    needs = BatchNeeds(arrangement, topics=arrangement == "halves")
    kept = tokenise(Dataset.from_dict({"text": lines}), tokenizer, LENGTH, tmp_path)
    expected = MaskedBatches(kept, tokenizer, MASKING, 1, needs)
    order = LengthGroupedBatches(kept.lengths, 4, 1, topics_of(kept, len(tokenizer)) if needs.topics else None)
    stream = batches(lines, buffer=100, needs=needs)
    for epoch in (0, 1, 2):
        order.set_epoch(epoch)
        assert_same(one_pass(stream, epoch), [expected[requests] for requests in order])


@pytest.mark.parametrize("done", [0, 3, 5, 7, 11])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_goes_on_where_it_was_stopped(batches, monkeypatch, done, workers):
    if workers and done != 7:
        return
    whole = batches(held_back=keys_of([LINES[0], LINES[30]]), drops=True)
    one_pass(whole, 0)
    whole.set_epoch(1)
    iterator = iter(whole)
    found = [next(iterator) for _ in range(done + 1)]  # one is fetched ahead
    position = whole.position(done)
    assert position[:2] == (1, done)
    found += list(iterator)
    resumed = batches(held_back=keys_of([LINES[0], LINES[30]]), drops=True, start=position, workers=workers)
    asked = []
    making = BatchMaking.of
    monkeypatch.setattr(BatchMaking, "of", lambda self, texts, epoch: asked.append(texts) or making(self, texts, epoch))
    next(iter(resumed))  # Lightning asks twice
    assert_same(list(resumed), found[done:])
    assert resumed.end == whole.end
    assert (resumed.end.read, resumed.end.copies) == (90, 4)
    if not workers:
        assert len(asked) == 3 - done // 5  # what was read before is not tokenised again
    assert_same(one_pass(resumed, 2), one_pass(whole, 2))


def test_copies_of_dev_and_test_texts_are_left_out_or_counted(batches, tokenizer):
    held_back = keys_of(["A  Film!", "never read", LINES[25]])
    lines = [*LINES, "a film"]
    for drops in (True, False):
        stream = batches(lines, held_back=held_back, drops=drops)
        read = [text for batch in one_pass(stream) for text in texts_of(batch, tokenizer)]
        copies = [text for text in lines if keys_of([text])[0] in held_back]
        assert len(copies) == stream.end.copies == 3
        assert stream.end.read == len(lines)
        assert sorted(read) == sorted(text for text in lines if not drops or text not in copies)
    with pytest.raises(UserError, match="nothing is left to train on"):
        one_pass(batches(held_back=keys_of(LINES), drops=True))


@pytest.mark.parametrize("policy", ["drop", "warn"])
@pytest.mark.parametrize("given", [False, True])
def test_later_copies_of_dev_texts_of_stage_1_are_left_out_or_counted(batches, tokenizer, tmp_path, policy, given):
    (tmp_path / "lines.txt").write_text("\n".join([*LINES, LINES[0].replace(" ", "  ")]))
    (tmp_path / "dev.txt").write_text("A  film!\n")
    own = {"text_dev": str(tmp_path / "dev.txt")} if given else {}
    data = files(text=str(tmp_path / "lines.txt"), shuffle_buffer=20, contamination=policy, **own)
    stream = batches()
    stream.blocks.dataset.stream = checked_corpus(data).corpus.stream
    read = [text for batch in one_pass(stream) for text in texts_of(batch, tokenizer)]
    copies = [LINES[0]] * (2 if given else 1)
    assert stream.end.copies == len(copies)
    assert sorted(read) == sorted([*LINES[1 if given else 10 :], *(copies if policy == "warn" else [])])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])  # which take 10 s to end
def test_a_mistake_in_a_late_row_is_one_message(batches, tmp_path, workers):
    rows = [json.dumps({"text": line}) for line in LINES]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows[:30], "{broken", *rows[30:]]))
    corpus = load_files(files(text=str(tmp_path / "a.jsonl"), shuffle_buffer=20))
    stream = batches(workers=workers)
    stream.blocks.dataset.stream = corpus.stream
    with pytest.raises(UserError) as raised:
        one_pass(stream)
    assert str(raised.value).startswith(f"{tmp_path / 'a.jsonl'}, line 31: not JSON")


def files(**given) -> FilesData:
    names = "text text_dev train dev test text_column label_column rating_column".split()
    shares = {"text_dev_share": 0.1, "dev_share": 0.1, "test_share": 0.2, "split_seed": 0}
    plain = {"source": "files", "name": "files", "max_length": 16, "streaming": True, "shuffle_buffer": 10}
    return FilesData(**dict.fromkeys(names) | shares | plain | given)


def sources(folder: Path) -> dict[str, str]:
    """The same texts in several kinds of files."""
    (folder / "lines.txt").write_text("\n\n".join(LINES))
    (folder / "rows.csv").write_text("stars,review\n" + "\n".join(f"1,{line}" for line in LINES))
    (folder / "rows.jsonl.gz").write_bytes(
        gzip.compress("\n".join(json.dumps({"body": line}) for line in LINES).encode())
    )
    for number in range(3):
        part = LINES[15 * number : 15 * number + 15]
        (folder / f"part{number}.tsv").write_text("text\n" + "\n".join(part))
    (folder / "texts").mkdir()
    for number, line in enumerate(LINES):
        (folder / f"texts/{number:03}.txt").write_text(line)
    rows = Dataset.from_dict({"text": LINES})
    rows.to_parquet(folder / "rows.parquet")
    rows.save_to_disk(folder / "saved")
    names = ("lines.txt", "rows.csv", "rows.jsonl.gz", "part*.tsv", "texts", "rows.parquet", "saved")
    return {name: str(folder / name) for name in names}


def test_every_kind_of_file_streams_without_keeping_a_row(tmp_path):
    for name, path in sources(tmp_path).items():
        corpus = load_files(files(text=path), tmp_path / "cache")
        assert [*corpus.text["dev"]["text"], *corpus.text["train"]["text"]] == LINES[:10], name
        assert corpus.made_splits == {"text_dev": {"from": "the first of text", "texts": 5}}
        assert corpus.stream.skip == 5
        assert list(corpus.stream.read()) == LINES, name
    assert not (tmp_path / "cache").exists()


def test_a_dev_that_is_given_leaves_all_of_the_stream_to_train(tmp_path):
    path = sources(tmp_path)["lines.txt"]
    corpus = load_files(files(text=path, text_dev=str(tmp_path / "part0.tsv")))
    assert (corpus.stream.skip, len(corpus.text["dev"]), len(corpus.text["train"])) == (0, 15, 10)
    with pytest.raises(UserError, match=r"streams data\.text, which is not given"):
        load_files(files(train=str(tmp_path / "rows.csv")))


def test_the_fingerprint_is_of_names_sizes_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("poolwise.data.parts.ENDS", 4)
    contents = ["first 1234567 last", "First 1234567 last", "first 1234567 lost", "first 12345678 last"]
    found = []
    for number, content in enumerate([contents[0], *contents, contents[0].replace("4", "5")]):
        folder = tmp_path / str(number) / "texts"
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(content)
        found.append(find_parts(str(folder / "a.txt"))[""][0].fingerprint())
    assert found[0] == found[1] == found[5]  # elsewhere; changed between the ends
    assert len(set(found[1:5])) == 4
    (tmp_path / "0/texts/b.txt").write_text(contents[0])
    assert find_parts(str(tmp_path / "0/texts/b.txt"))[""][0].fingerprint() != found[0]


def test_what_the_batches_depend_on_is_in_the_key():
    stream = TextStream(partial(reading, LINES), "f", 20)
    keys = keys_of(LINES[:2])
    assert replace(stream, held_back=keys).material == stream.material
    changed = [
        replace(stream, held_back=keys, drops=True),
        replace(stream, held_back=keys[:1], drops=True),
        replace(stream, buffer=21),
        replace(stream, skip=1),
        replace(stream, fingerprint="g"),
    ]
    assert len({json.dumps(each.material) for each in [stream, *changed]}) == 6
    assert replace(stream, held_back=keys[::-1], drops=True).material == changed[0].material


def test_a_data_set_that_is_streamed(tmp_path):
    """As from the hub: what `datasets` streams, here of a folder."""
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": line, "n": 1}) for line in LINES))
    (part,) = _streamed_from_hub(str(tmp_path))["train"]
    assert [row["text"] for _, row in part.rows()] == LINES
    assert [row["text"] for _, row in part.rows()] == LINES
    before = part.fingerprint()
    assert _streamed_from_hub(str(tmp_path))["train"][0].fingerprint() == before
    with pytest.raises(UserError, match="nobody/nothing cannot be streamed"):
        _streamed_from_hub("nobody/nothing")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(batches, tmp_path):
    """Of what ten times the texts add on disk, hardly a tenth stays in memory: what the type checks of tests keep."""
    peaks, sizes = {}, {}
    for times in (1, 10):
        path = tmp_path / "lines.txt"
        sizes[times] = path.write_text("".join(f"{n} a film {'dull ' * 40}\n" for n in range(300 * times)))
        corpus = load_files(files(text=str(path), shuffle_buffer=100))
        stream = batches(batch_size=100)
        stream.blocks.dataset.stream = corpus.stream
        next(iter(stream))  # what is made once is there
        gc.collect()
        gc.freeze()  # so that collecting what the loop leaves is quick
        tracemalloc.start()
        held, texts = [], 0
        for batch in stream:
            texts += len(batch["labels"])
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        gc.unfreeze()
        assert texts == 300 * times - 10
        peaks[times] = max(held)
    assert peaks[10] - peaks[1] < 0.3 * (sizes[10] - sizes[1])
