from datasets import Dataset
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from poolwise.data.language import GUESSED_TEXTS, WORDS_A_BLOCK, languages_of_texts, languages_of_vocabulary

SENTENCES = {
    "en": "we thought that the rooms were small but clean",
    "es": "las habitaciones eran pequeñas pero estaban muy limpias",
    "zh": "房间很小但是非常干净",
}

SPANISH_ENDS = "ción ciones a o as os ado ada ados adas mente ería".split()


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordPiece({word: number for number, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_shares_of_texts_in_each_language():
    rows = [*(8 * [SENTENCES["es"]]), *(6 * [SENTENCES["en"]]), *(2 * [SENTENCES["zh"]]), *(4 * ["12 !!!"])]
    found = languages_of_texts(Dataset.from_dict({"text": rows}))
    assert list(found.items()) == [("es", 0.5), ("en", 0.375), ("zh", 0.125)]
    assert languages_of_texts(Dataset.from_dict({"text": ["", "42"]})) == {}


def test_of_many_texts_some_are_read_evenly_spread(monkeypatch):
    seen = []
    monkeypatch.setattr("py3langid.classify", lambda text: (seen.append(text), ("en", 0.0))[1])
    languages_of_texts(Dataset.from_dict({"text": [f"text {n}" for n in range(2 * GUESSED_TEXTS)]}))
    assert len(seen) == GUESSED_TEXTS
    assert (seen[0], seen[-1]) == ("text 0", f"text {2 * GUESSED_TEXTS - 1}")


def test_a_vocabulary_has_the_language_of_its_whole_words():
    spanish = [f"{stem}{end}" for stem in "habita pequeñ limpi cerc hermos".split() for end in SPANISH_ENDS]
    pieces = [*spanish, *(f"##{word}" for word in SENTENCES["en"].split()), "bad"]
    assert languages_of_vocabulary(tokenizer_of(pieces)) == {"es": 1.0}
    assert languages_of_vocabulary(tokenizer_of(spanish[: WORDS_A_BLOCK - 1])) == {}
