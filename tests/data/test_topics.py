import numpy as np
import pytest
from datasets import Dataset

from helpers import MASKING
from poolwise.data.arrangement import BatchNeeds
from poolwise.data.module import masked_data
from poolwise.data.tokens import TokenisedTexts, document_frequencies, tokenise
from poolwise.data.topics import text_vectors, topics_of

KINDS = ("good lovely so", "dull failure would")


@pytest.fixture
def two_topics(tokenizer, tmp_path) -> TokenisedTexts:
    random = np.random.default_rng(0)
    rows = [" ".join(random.choice(KINDS[n % 2].split(), size=3 + n % 5)) for n in range(240)]
    return tokenise(Dataset.from_dict({"text": rows}), tokenizer, 24, tmp_path)


def test_texts_without_a_word_in_common_have_no_topic_in_common(two_topics, tokenizer):
    topics = topics_of(two_topics, len(tokenizer))
    assert not set(topics[::2]) & set(topics[1::2])
    assert np.array_equal(topics, topics_of(two_topics, len(tokenizer)))


def test_vectors_are_weighted_sums_of_one_direction_a_piece(two_topics, tokenizer):
    vectors = text_vectors(two_topics, len(tokenizer))
    weights = np.log(240 / np.maximum(document_frequencies(two_topics, len(tokenizer)), 1))
    directions = np.random.default_rng(0).standard_normal((len(tokenizer), 64))
    for number in (0, 7, 239):
        ids = two_topics.ids[two_topics.offsets[number] : two_topics.offsets[number + 1]]
        expected = sum(weights[piece] * directions[piece] for piece in ids)
        assert vectors[number] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_batches_hold_one_topic_where_an_objective_asks_for_it(two_topics, tokenizer):
    splits = {"train": two_topics, "dev": two_topics}
    data = masked_data(splits, tokenizer, MASKING, 8, 1, workers=0, needs=BatchNeeds("views", topics=True), epochs=1)
    batches = list(data.train_dataloader().sampler)
    assert sorted(example for batch in batches for _, example in batch) == list(range(240))
    mixed = sum(len({example % 2 for _, example in batch}) == 2 for batch in batches)
    assert mixed <= 7  # only where a topic ends within a batch
