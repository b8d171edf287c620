"""A vocabulary made to fit a text: which words and pieces, of which old pieces, and the embeddings that these give."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers.implementations import ByteLevelBPETokenizer
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertTokenizer,
    RobertaTokenizer,
)

from helpers import SMALL_STAGE1, SMALL_STAGE2, TEXTS
from poolwise.data import vocabulary
from poolwise.data.tokens import tokenizer_hash
from poolwise.data.vocabulary import Vocabulary, published, retrained, with_words
from poolwise.encoder import set_vocabulary
from poolwise.runs import read_record
from poolwise.settings import UserError

NEW_WORDS = [
    "Zebra zebra zebras!",
    "The zebra is lovely, 4711 4711, and the koala, and the \u4e02\u4e02 too.",
    "Koala.",
]
ADDED = ("zebra", "koala", "\u4e02", "too")


def rows(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": list(texts)})


@pytest.fixture
def extended(tokenizer: BertTokenizer, tmp_path: Path) -> Vocabulary:
    return with_words(tokenizer, rows(*NEW_WORDS, "Too."), 4, tmp_path / "kept")


def test_the_most_frequent_split_or_unknown_words_are_added(tokenizer, extended, tmp_path, monkeypatch):
    """4711 has no letter, zebras occurs once, lovely is known; koala is before too by alphabet."""
    before = tokenizer_hash(tokenizer)
    monkeypatch.setattr(vocabulary, "_frequent_words", None)  # words that are kept are not counted again
    assert with_words(tokenizer, rows(*NEW_WORDS, "Too."), 4, tmp_path / "kept").added == extended.added
    assert sorted(extended.added) == sorted(ADDED)
    assert extended.added[0] == "zebra"
    assert extended.added[1:] == tuple(sorted(extended.added[1:]))
    assert tokenizer_hash(tokenizer) == before
    assert extended.tokenizer.tokenize("ZEBRA \u4e02\u4e02koala") == ["zebra", "\u4e02", "\u4e02", "koala"]


def test_old_pieces_keep_their_ids_and_new_ones_are_what_they_were_read_as(tokenizer, extended):
    size = len(tokenizer)
    assert extended.pieces[:size] == tuple((id_,) for id_ in range(size))
    for number, word in enumerate(extended.added):
        assert extended.tokenizer.convert_tokens_to_ids(word) == size + number
        assert list(extended.pieces[size + number]) == tokenizer(word, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id in extended.pieces[size + extended.added.index("\u4e02")]
    for text in TEXTS:
        assert extended.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_more_words_than_there_are_and_other_kinds_of_tokenizers_are_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"have 2 words that .* allowed: 0 to 2"):
        with_words(tokenizer, rows(*NEW_WORDS[:1], *NEW_WORDS[:1]), 3, tmp_path)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, 300, show_progress=False)
    bpe = RobertaTokenizer(vocab=trained.get_vocab(), merges=[])
    for make, setting in ((with_words, "model.add_words=300"), (retrained, "model.vocabulary_size=300")):
        with pytest.raises(UserError, match=f"{setting}: needs a WordPiece tokenizer.*is BPE; allowed with it"):
            make(bpe, rows(*TEXTS), 300, tmp_path)


@pytest.mark.parametrize("make", [with_words, retrained])
def test_the_tokenizer_gives_what_the_old_one_gave_also_after_a_round_trip(tokenizer, tmp_path, make):
    distilbert = DistilBertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=77)
    made = make(distilbert, rows(*NEW_WORDS * 3), 4 if make is with_words else 150, tmp_path / "kept").tokenizer
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_hash(again) == tokenizer_hash(made)
    assert again("The zebra")["input_ids"] == made("The zebra")["input_ids"]
    assert list(again("zebra")) == list(distilbert("zebra")) == ["input_ids", "attention_mask"]
    assert again.model_max_length == 77


def means(table: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
    return torch.stack([table[list(piece)].mean(0) for piece in vocabulary.pieces])


@pytest.mark.parametrize("kind", ["words", "new"])
def test_embeddings_and_decoder_bias_are_means_of_the_old_ones(model, tokenizer, extended, tmp_path, kind):
    torch.nn.init.normal_(model.cls.predictions.bias)
    table, bias = model.bert.embeddings.word_embeddings.weight.clone(), model.cls.predictions.bias.clone()
    made = extended if kind == "words" else retrained(tokenizer, rows(*NEW_WORDS, *TEXTS), 150, tmp_path)
    generator = torch.random.get_rng_state()
    set_vocabulary(model, made.pieces, made.tokenizer.pad_token_id)
    assert torch.equal(torch.random.get_rng_state(), generator)
    decoder = model.cls.predictions.decoder
    torch.testing.assert_close(model.bert.embeddings.word_embeddings.weight, means(table, made))
    torch.testing.assert_close(decoder.bias, means(bias, made))
    assert decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert decoder.bias is model.cls.predictions.bias
    assert model.config.vocab_size == len(made.tokenizer) == len(made.pieces)
    if kind == "words":
        assert torch.equal(decoder.weight[: len(table)], table)
        assert torch.equal(decoder.bias[: len(bias)], bias)


def test_a_text_without_new_words_has_the_same_logits_over_old_pieces(model, tokenizer, extended):
    model.eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    before = model(batch["input_ids"], batch["attention_mask"])
    set_vocabulary(model, extended.pieces, tokenizer.pad_token_id)
    again = extended.tokenizer(TEXTS, padding=True, return_tensors="pt")
    after = model(again["input_ids"], again["attention_mask"])
    torch.testing.assert_close(after.logits[..., : len(tokenizer)], before.logits)
    torch.testing.assert_close(after.pooler_output, before.pooler_output)


def test_a_new_vocabulary_is_read_as_old_pieces_by_place_in_the_word_and_by_role(tokenizer, tmp_path):
    made = retrained(tokenizer, rows(*NEW_WORDS, *TEXTS), 150, tmp_path)
    old, new = tokenizer.convert_ids_to_tokens, made.tokenizer.convert_ids_to_tokens
    known = set(tokenizer.get_vocab())
    assert len(made.tokenizer) <= 150
    for id_, pieces in enumerate(made.pieces):
        token, read = new([id_])[0], old(list(pieces))
        if token in known:
            assert read == [token]
        elif "[UNK]" not in read:
            assert read[0].startswith("##") == token.startswith("##")
            assert "".join(piece.removeprefix("##") for piece in read) == token.removeprefix("##")
    for role in ("pad", "unk", "cls", "sep", "mask"):
        name = f"{role}_token_id"
        assert made.pieces[getattr(made.tokenizer, name)] == (getattr(tokenizer, name),)
    cased = BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=False)
    assert "Zebra" in retrained(cased, rows(*NEW_WORDS * 5), 150, tmp_path).tokenizer.get_vocab()


@pytest.fixture
def checkpoint(tokenizer, config, tmp_path) -> str:
    """A BERT for the texts of the tests, which splits nearly every word of the demo's reviews."""
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


def without_sizes(settings: list[str]) -> list[str]:
    return [each for each in settings if not each.startswith("model.")]


GIVEN = ["objective@stage1.objective=none", "repr=mean", "seed=1", *without_sizes(SMALL_STAGE2)]


@pytest.mark.parametrize(
    "setting", ["model.add_words=20", pytest.param("model.vocabulary_size=150", marks=pytest.mark.slow)]
)
def test_stage_1_exports_the_vocabulary_with_the_model_and_stage_2_reads_it(
    program, tmp_path, checkpoint, tokenizer, setting
):
    given = [f"model={checkpoint}", setting, "logger=csv"]
    assert program("stage=mlm", *without_sizes(SMALL_STAGE1), *given, "objective=none") == 0
    (run,) = (tmp_path / "runs/mlm").iterdir()
    name = "start+20words" if "words" in setting else "start+vocabulary150"
    assert read_record(run)["model"] == name
    words = AutoTokenizer.from_pretrained(run / "export")
    assert tokenizer_hash(words) == read_record(run)["material"]["tokenizer"] != tokenizer_hash(tokenizer)
    body, found = AutoModel.from_pretrained(run / "export", output_loading_info=True)
    assert not found["missing_keys"]
    assert body.get_input_embeddings().num_embeddings == len(words)
    if name == "start+20words":
        assert words.tokenize("I found it") == ["i", "found", "it"] != tokenizer.tokenize("I found it")
        assert program("stage=sentiment", *GIVEN, *given) == 0
        (stage2,) = (tmp_path / "runs/sentiment").iterdir()
        assert read_record(stage2)["material"]["tokenizer"] == tokenizer_hash(words)
        assert read_record(stage2)["model"] == name


def test_the_unadapted_encoder_reads_with_added_words_too(program, tmp_path, checkpoint):
    assert (
        program("stage=sentiment", *GIVEN, f"model={checkpoint}", "model.add_words=20", "encoder=base", "logger=csv")
        == 0
    )
    (run,) = (tmp_path / "runs/sentiment").iterdir()
    assert read_record(run)["model"] == "start+20words"


def test_a_published_vocabulary(tmp_path):
    """Line numbers are ids; each Chinese character is a piece of its own; capitals mean that case is kept."""
    path = tmp_path / "vocab.txt"
    pieces = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "很", "好", "good", "##s"]
    path.write_text("\r\n".join(pieces))
    tokenizer = published(str(path), 32)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == pieces
    assert tokenizer.tokenize("很好很Goods") == ["很", "好", "很", "good", "##s"]
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 5)
    path.write_text("\n".join([*pieces, "Good"]))
    assert published(str(path), 32).tokenize("Good good") == ["Good", "good"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[PAD]\n[UNK]\ngood", r"vocab\.txt lacks \[CLS\], \[SEP\], \[MASK\]; model\.vocabulary= takes a WordPiece"),
        ("[PAD]\n[UNK]\n[PAD]", r"vocab\.txt, line 1: '\[PAD\]' is there again in line 3"),
        ("[PAD]\n\n[UNK]", r"vocab\.txt, line 2: empty"),
        ("", r"vocab\.txt lacks \[PAD\]"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        published(str(tmp_path / "vocab.txt"), 32)
    with pytest.raises(UserError, match=r"No such file"):
        published(str(tmp_path / "no.txt"), 32)
