import random
import time

import numpy as np
import pytest
from datasets import Dataset

from poolwise.data.contamination import (
    BANDS,
    ROWS,
    THRESHOLD,
    jaccard,
    near_copies,
    near_groups,
    normalised,
    shingles,
    signatures,
    text_keys,
    without_copies,
)

WORDS = [f"{first}{second}" for first in ("kettle", "film", "good", "dull", "and") for second in ("", "s", "ing", "er")]


def texts(*rows: str) -> Dataset:
    return Dataset.from_dict({"text": list(rows)})


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=20)) + f" {draw.random()}" for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("A fine film!", "a  fine\tfilm"),
        ("don't", "DON\u2019T"),
        ("\ufb01ne \uff26ilm", "fine film"),  # a ligature, a full-width letter
        ("cafe\u0301", "caf\xe9"),
        ("STRASSE", "straße"),
        ("好\uff0c很好。", "好 很好"),
    ],
)
def test_case_punctuation_blanks_and_forms_of_characters_are_evened_out(text, other):
    assert normalised(text) == normalised(other)


@pytest.mark.parametrize(("text", "other"), [(":)", ":("), ("good 👍", "good 👎"), ("किताब", "कताब"), ("10", "1 0")])
def test_other_texts_stay_others(text, other):
    assert normalised(text) != normalised(other)


def test_copies_have_one_key_in_whatever_set_they_stand():
    keys = text_keys(texts("A film.", "a film", "another", ""))
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 3
    assert text_keys(texts("another"))[0] == keys[2]


def test_what_others_hold_is_left_out_in_order():
    rows = texts("one", "Two!", "three", "two", "four")
    left = without_copies(rows, text_keys(rows), text_keys(texts("two", "five")))
    assert list(left["text"]) == ["one", "three", "four"]
    assert without_copies(rows, text_keys(rows), text_keys(texts("five"))) is rows


def test_shingles_are_five_characters_of_one_text():
    values, starts = shingles(["abcdef", "ab", "bcdef", "Abcde!"])
    assert starts.tolist() == [0, 2, 3, 4, 5]
    assert values[0] == values[4]  # abcde
    assert values[1] == values[3]  # bcdef
    assert len(set(values.tolist())) == 3


def test_similarity_is_the_share_of_strings_that_both_have():
    sets = [{text[n : n + 5] for n in range(len(text) - 4)} for text in ("the dull film", "the dull filming")]
    assert jaccard("the dull film", "The dull filming!") == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert jaccard("alike", "Alike.") == 1.0
    assert jaccard("abcdefg", "hijklmn") == 0.0


def test_signatures_agree_as_often_as_texts_are_alike():
    first = sentences(200, seed=1)
    other = [" ".join(text.split()[: 4 + n % 16]) for n, text in enumerate(first)]
    alike = np.array([jaccard(text, cut) for text, cut in zip(first, other, strict=True)])
    agreeing = (signatures(texts(*first)) == signatures(texts(*other))).mean(axis=1)
    assert abs((agreeing - alike).mean()) < 0.04
    assert np.abs(agreeing - alike).max() < 5 * 0.5 / np.sqrt(BANDS * ROWS)


def test_groups_of_near_copies_hold_exact_ones_and_those_by_way_of_others():
    chain = [" ".join(f"word{n}" for n in range(first, first + 20)) for first in range(5)]
    assert jaccard(chain[0], chain[4]) < THRESHOLD < min(map(jaccard, chain, chain[1:]))
    given = [*chain[::2], "another text of its own", *chain[1::2], "short", "Short!", *(30 * ["many"])]
    a, b, c, d = near_groups(texts(*given))[[0, 3, 6, 8]]
    assert near_groups(texts(*given)).tolist() == [a, a, a, b, a, a, c, c, *(30 * [d])]
    assert len({a, b, c, d}) == 4
    assert near_groups(texts("one", "two")).tolist() == [0, 1]


def test_near_copies_are_found_and_only_these():
    """Against every pair: no pair is wrong, and of a hundred texts at most one is missed."""
    others = sentences(400, seed=2)
    draw = random.Random(3)
    changed = [" ".join(word for word in text.split() if draw.random() > 0.05) for text in others[:100]]
    asked = [*changed, *sentences(100, seed=4)]
    found = near_copies(texts(*asked), texts(*others), signatures(texts(*asked)), signatures(texts(*others)))
    wanted = {number: jaccard(text, others[number]) for number, text in enumerate(changed)}
    wanted = {number: similarity for number, similarity in wanted.items() if similarity >= THRESHOLD}
    assert len(wanted) > 50
    assert set(found) <= set(wanted)
    assert len(found) >= len(wanted) - 1
    assert all(found[number] == (number, wanted[number]) for number in found)


def test_thousands_of_texts_take_no_time():
    rows = texts(*sentences(4000, seed=5))
    started = time.process_time()
    assert len(np.unique(text_keys(rows))) == 4000
    assert signatures(rows).shape == (4000, BANDS * ROWS)
    assert time.process_time() - started < 2  # 0.1 s on a free core
