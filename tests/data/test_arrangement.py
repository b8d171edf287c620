import numpy as np
import pytest
from datasets import Dataset

from poolwise.data.arrangement import BatchNeeds, SegmentPairs, agreed, halves, uncut
from poolwise.data.tokens import tokenise
from poolwise.settings import UserError

SENTENCES = [
    f"{word} {other}." for word in ("the good", "a dull", "lovely") for other in ("failure", "failure is good")
]


@pytest.fixture
def pairs(tokenizer, tmp_path) -> SegmentPairs:
    """Texts of one to four sentences."""
    random = np.random.default_rng(0)
    rows = [" ".join(random.choice(SENTENCES, size=1 + number % 4)) for number in range(400)]
    return SegmentPairs(tokenise(Dataset.from_dict({"text": rows}), tokenizer, 24, tmp_path), tokenizer)


def content(pairs: SegmentPairs, example: int) -> list[int]:
    return pairs.texts.ids[pairs.texts.offsets[example] + 1 : pairs.texts.offsets[example + 1] - 1].tolist()


def segments(tokenizer, made, row: int) -> tuple[list[int], list[int]]:
    """The two segments of a row, found by its token types; the row has BERT's form."""
    ids, types = (
        made.rows.token_ids[row][made.rows.present[row]].tolist(),
        made.token_types[row][made.rows.present[row]],
    )
    first, second = (np.array(ids)[types == kind].tolist() for kind in (0, 1))
    assert (types == np.sort(types)).all()
    assert first[0] == tokenizer.cls_token_id
    assert first[-1] == tokenizer.sep_token_id
    assert not second or second[-1] == tokenizer.sep_token_id
    assert (made.rows.token_ids[row][~made.rows.present[row]] == tokenizer.pad_token_id).all()
    return first[1:-1], second[:-1]


def to_last_sentence_end(ids: list[int], full_stop: int) -> list[int]:
    """A text without what follows its last sentence; all of it where none ends."""
    return ids[: len(ids) - ids[::-1].index(full_stop)] if full_stop in ids else ids


def cuts_of(ids: list[int], full_stop: int) -> list[int]:
    """Where a text that ends with a sentence may be cut, by hand."""
    return [n + 1 for n, token in enumerate(ids) if token == full_stop and n >= 1 and len(ids) - n - 1 >= 2]


def test_segments_in_order_or_swapped_make_up_the_text(pairs, tokenizer):
    full_stop = tokenizer.get_vocab()["."]
    made = pairs.make(np.arange(400), "order", seed=1, epoch=0)
    for row in range(400):
        text, label = content(pairs, row), made.labels[row]
        first, second = segments(tokenizer, made, row)
        whole = to_last_sentence_end(text, full_stop)
        if not cuts_of(whole, full_stop):
            whole = text
            assert (first, second, label) == (whole, [], -100)
            continue
        one, other = (second, first) if label == 1 else (first, second)
        joined = one + other
        if len(whole) < 22:
            assert joined == whole
            assert len(one) in cuts_of(whole, full_stop)
        else:
            assert len(joined) == 21  # a full-length text gives one piece for the second separator
    labels = made.labels[made.labels >= 0]
    assert 0.4 < labels.mean() < 0.6
    assert (made.labels == -100).sum() == (~pairs.splittable).sum() >= 100
    assert made.rows.token_ids.shape[1] <= 24


def test_the_next_segment_is_the_texts_own_or_one_that_ends_another_text(pairs, tokenizer):
    made = pairs.make(np.arange(400), "next", seed=1, epoch=0)
    full_stop = tokenizer.get_vocab()["."]
    texts = [to_last_sentence_end(content(pairs, number), full_stop) for number in range(400)]
    changed = 0
    for row in np.flatnonzero(pairs.splittable):
        first, second = segments(tokenizer, made, row)
        assert texts[row][: len(first)] == first
        if made.labels[row] == 0:
            assert first + second == texts[row][: len(first) + len(second)]
        else:
            changed += 1
            ends = [text for number, text in enumerate(texts) if number != row and len(text) > len(second)]
            assert any(second == text[-len(second) :] for text in ends) or len(first) + len(second) == 21
    assert 0.4 < changed / pairs.splittable.sum() < 0.6


def best_threshold(values: np.ndarray, labels: np.ndarray) -> float:
    """The accuracy of the best rule "more than so much means so" on these very pairs."""
    rules = [(values > threshold) == labels for threshold in np.unique(values)]
    return max(max(rule.mean(), 1 - rule.mean()) for rule in rules)


@pytest.mark.parametrize("kind", ["order", "next"])
def test_neither_length_nor_a_broken_sentence_tells_the_label_of_truncated_texts(tokenizer, tmp_path, kind):
    random = np.random.default_rng(1)
    rows = [" ".join(random.choice(SENTENCES, size=random.integers(2, 9))) for _ in range(3000)]
    texts = tokenise(Dataset.from_dict({"text": rows}), tokenizer, 24, tmp_path)
    assert (texts.lengths == 24).mean() > 0.5
    made = SegmentPairs(texts, tokenizer).make(np.arange(3000), kind, seed=1, epoch=0)
    known = made.labels >= 0
    assert known.mean() > 0.7
    labels, full_stop = made.labels[known].astype(bool), tokenizer.get_vocab()["."]
    first_lengths, second_lengths = [], []
    for row in np.flatnonzero(known):
        first, second = segments(tokenizer, made, row)
        assert first[-1] == full_stop
        first_lengths.append(len(first))
        second_lengths.append(len(second))
    lengths = [np.array(first_lengths), np.array(second_lengths)]
    for values in (*lengths, sum(lengths)) if kind == "next" else (sum(lengths),):
        assert best_threshold(values, labels) < 0.55
    broken = np.array([segments(tokenizer, made, row)[1][-1] != full_stop for row in np.flatnonzero(known)])
    assert best_threshold(broken, labels) < 0.55


@pytest.mark.parametrize("kind", ["order", "next"])
def test_pairs_are_a_function_of_seed_epoch_and_example(pairs, kind):
    everything = pairs.make(np.arange(400), kind, seed=1, epoch=0)
    some = np.array([7, 300, 42])
    again = pairs.make(some, kind, seed=1, epoch=0)
    width = again.rows.token_ids.shape[1]
    assert (everything.rows.token_ids[some][:, :width] == again.rows.token_ids).all()
    assert (everything.labels[some] == again.labels).all()
    for other in ({"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}):
        assert (pairs.make(np.arange(400), kind, **other).labels != everything.labels).any()


@pytest.mark.parametrize(
    ("rows", "labels"), [(["lovely.", "dull."], [-100, -100]), (["a b. c d.", "dull."], [0, -100])]
)
def test_a_split_without_texts_to_cut_or_to_swap_with_still_makes_batches(tokenizer, tmp_path, rows, labels):
    texts = tokenise(Dataset.from_dict({"text": rows}), tokenizer, 24, tmp_path)
    for seed in range(4):
        assert SegmentPairs(texts, tokenizer).make(np.arange(2), "next", seed, 0).labels.tolist() == labels


def test_needs_agree_or_are_told():
    needs = {"bow": BatchNeeds(), "views": BatchNeeds("views"), "decoder": BatchNeeds(second_mask=0.5)}
    assert agreed(needs) == BatchNeeds("views", 0.5)
    assert agreed({"rating": BatchNeeds(ratings=True), "bow": BatchNeeds()}) == BatchNeeds(ratings=True)
    with pytest.raises(UserError, match="views needs views, sop needs order"):
        agreed({**needs, "sop": BatchNeeds("order")})


def test_halves_make_up_the_text_and_are_of_like_length(pairs, tokenizer):
    made = halves(pairs.texts, np.arange(400))
    for row in np.flatnonzero(~uncut(pairs.texts.lengths)):
        first, second = (made.token_ids[n][made.present[n]].tolist() for n in (row, 400 + row))
        for half in (first, second):
            assert (half[0], half[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert first[1:-1] + second[1:-1] == content(pairs, row)
        assert 0 <= len(second) - len(first) <= 1
    assert (made.token_ids[~made.present] == tokenizer.pad_token_id).all()
    assert (pairs.texts.ids[made.places[made.present]] == made.token_ids[made.present]).all()


def test_a_text_too_short_to_cut_stands_whole_in_both_rows(tokenizer, tmp_path):
    rows = ["good", "the good .", "a dull failure .", ""]
    texts = tokenise(Dataset.from_dict({"text": rows}), tokenizer, 24, tmp_path)
    assert uncut(texts.lengths).tolist() == [True, True, False, True]
    made = halves(texts, np.arange(4))
    rows = zip(made.token_ids, made.present, strict=True)
    found = [tokenizer.decode(ids[present], skip_special_tokens=True) for ids, present in rows]
    assert found == ["good", "the good.", "a dull", "", "good", "the good.", "failure.", ""]
