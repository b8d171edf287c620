"""Every family with tiny random members: against its own model for MLM, round trip, both stages, the card."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoTokenizer,
    DistilBertTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from helpers import BOW, MASKING, SMALL_RUN, TEXTS, objective_settings, write_run
from poolwise import inspect
from poolwise.checkpoints import check_checkpoint, layer_count, longest_text
from poolwise.data.arrangement import SegmentPairs, sentence_end_ids
from poolwise.data.batching import MaskedBatches
from poolwise.data.segmentation import word_starts
from poolwise.data.tokens import tokenise, train_wordpiece
from poolwise.encoder import (
    MaskedLMWithPooler,
    drawn_with,
    export,
    freeze_all_but_pooler,
    load_encoder,
    load_for_pretraining,
    model_class,
    reinitialise,
    set_vocabulary,
)
from poolwise.export import FORMS, checked_texts
from poolwise.exports.check import READERS
from poolwise.families import FAMILIES, POOLER_KEYS, family_of
from poolwise.objectives import build_objective
from poolwise.objectives.base import Surroundings
from poolwise.packing import Packing
from poolwise.provenance import ProvenanceTracker, part_of
from poolwise.representations import REPRESENTATIONS, EncoderShape, build_representation
from poolwise.runs import MODEL_FOLDER
from poolwise.settings import LongTexts, Optimisation, UserError
from poolwise.stages.sentiment import Sentiment, SentimentClassifier
from poolwise.trained import Notes, load, save

HIDDEN = ("distilbert", "modernbert")
"""The families whose bodies have no pooler."""
EACH = pytest.mark.parametrize("kind", FAMILIES)
ONE_QUICK = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "modernbert" else [pytest.mark.slow]) for kind in FAMILIES]
)

Sizes = dict[str, Any]
STANDARD: Sizes = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
}
ROBERTA: Sizes = {**STANDARD, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SIZES: dict[str, Sizes] = {
    "bert": STANDARD,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 66},
    "modernbert": {**STANDARD, "local_attention": 8},
}


def byte_level() -> tuple[dict[str, int], list[tuple[str, str]]]:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, 320, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False)
    description = json.loads(trained._tokenizer.to_str())["model"]
    vocabulary = description["vocab"]
    return {**vocabulary, "<mask>": len(vocabulary)}, [tuple(merge) for merge in description["merges"]]


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    vocabulary, merges = byte_level()
    return RobertaTokenizer(vocab=vocabulary, merges=merges)


def xlm_roberta_tokenizer() -> PreTrainedTokenizerBase:
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=specials, unk_token="<unk>", show_progress=False)
    trained.train_from_iterator(TEXTS, trainer)
    pieces = [tuple(piece) for piece in json.loads(trained.to_str())["model"]["vocab"]]
    return XLMRobertaTokenizer(vocab=[*pieces, ("▁is", -1.0), ("<mask>", 0.0)])


def modernbert_tokenizer() -> PreTrainedTokenizerBase:
    trained = Tokenizer(models.BPE(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    trained.decoder = decoders.ByteLevel()
    trained.post_processor = TemplateProcessing("[CLS] $0 [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=trained, model_input_names=["input_ids", "attention_mask"], **names)


def wordpiece() -> PreTrainedTokenizerBase:
    return train_wordpiece(Dataset.from_dict({"text": TEXTS}), 200, 32)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": wordpiece,
    "roberta": roberta_tokenizer,
    "xlm-roberta": xlm_roberta_tokenizer,
    "distilbert": lambda: DistilBertTokenizer(vocab=wordpiece().get_vocab()),
    "modernbert": modernbert_tokenizer,
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {kind: make() for kind, make in TOKENIZERS.items()}


@pytest.fixture
def own_tokenizer(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return tokenizers[kind]


@pytest.fixture
def own_config(kind: str, own_tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    special = {f"{name}_token_id": getattr(own_tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    return FAMILIES[kind].masked_lm.config_class(**{"vocab_size": len(own_tokenizer), **special, **SIZES[kind]})


@pytest.fixture
def own_model(kind: str, own_config: PreTrainedConfig) -> MaskedLMWithPooler:
    torch.manual_seed(0)
    model = model_class(FAMILIES[kind])(own_config).eval()
    torch.nn.init.normal_(model.pooling_layer.dense.bias)
    return model


@pytest.fixture
def own_batch(own_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> dict[str, Any]:
    texts = tokenise(Dataset.from_dict({"text": TEXTS}), own_tokenizer, 32, tmp_path / "cache")
    return dict(MaskedBatches(texts, own_tokenizer, MASKING, 1)[[(0, n) for n in range(len(texts))]])


@pytest.fixture
def own_export(own_model, own_tokenizer, tmp_path: Path) -> Path:
    provenance = {"pooler_status": "trained", "parts": {}}
    export(own_model, own_tokenizer, provenance, "# card", tmp_path / "export")
    return tmp_path / "export"


def test_the_table_knows_which_bodies_have_a_pooler():
    assert {kind for kind, family in FAMILIES.items() if not family.has_pooler} == set(HIDDEN)


@EACH
def test_logits_and_loss_are_the_familys_own(kind, own_config, own_batch, tmp_path):
    torch.manual_seed(1)
    reference = FAMILIES[kind].masked_lm(own_config).eval()
    reference.save_pretrained(tmp_path)
    ours = model_class(FAMILIES[kind]).from_pretrained(tmp_path).eval()
    assert ours.loading_info["missing_keys"] == FAMILIES[kind].pooler_keys
    ids, mask, labels = (own_batch[key] for key in ("input_ids", "attention_mask", "labels"))
    expected = reference(ids, mask, labels=labels)
    masked = ours(ids, mask, labels=labels, masked_only=True)
    chosen = labels != -100
    torch.testing.assert_close(masked.logits, expected.logits[chosen])
    torch.testing.assert_close(masked.loss, expected.loss)
    everywhere = ours(ids, mask, labels=labels)
    torch.testing.assert_close(everywhere.logits[mask == 1], expected.logits[mask == 1])
    torch.testing.assert_close(everywhere.loss, expected.loss)
    torch.testing.assert_close(ours.mlm_logits(masked.last_hidden_state)[chosen], masked.logits)
    torch.testing.assert_close(ours.mlm_head(masked.last_hidden_state)[chosen], masked.logits)


@EACH
def test_another_vocabulary_has_means_of_old_rows_in_each_table(kind, own_model, own_batch, tmp_path):
    table, bias = own_model.get_input_embeddings().weight.clone(), own_model.get_output_embeddings().bias.clone()
    size, pad = len(table), own_model.config.pad_token_id
    ids, mask = own_batch["original_ids"], own_batch["attention_mask"]
    before = own_model(ids, mask)
    set_vocabulary(own_model, [*((row,) for row in range(size)), (5, 6, 7), (8, 9)], pad)
    after = own_model(ids, mask)
    assert torch.equal(after.pooler_output, before.pooler_output)
    torch.testing.assert_close(after.logits[..., :size], before.logits)
    own_model.save_pretrained(tmp_path / "larger")
    again = model_class(FAMILIES[kind]).from_pretrained(tmp_path / "larger")
    assert not again.loading_info["missing_keys"]
    output = again.get_output_embeddings()
    assert torch.equal(output.weight, again.get_input_embeddings().weight)
    for old, new in ((table, output.weight), (bias, output.bias)):
        assert torch.equal(new[:size], old)
        torch.testing.assert_close(new[size:], torch.stack([old[5:8].mean(0), old[8:10].mean(0)]))


@EACH
def test_a_text_has_the_same_vectors_alone_and_padded(own_model, own_batch):
    ids, mask = own_batch["original_ids"], own_batch["attention_mask"]
    together = own_model.sentence_vectors(ids, mask)
    dense = own_model.pooling_layer.dense
    for row in range(len(ids)):
        length = int(mask[row].sum())
        alone = own_model(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(alone.pooler_output[0], together[row], atol=1e-5, rtol=1e-4)
        by_hand = torch.tanh(dense.weight @ alone.last_hidden_state[0, 0] + dense.bias)
        torch.testing.assert_close(alone.pooler_output[0], by_hand, atol=1e-5, rtol=1e-4)


@EACH
def test_the_export_loads_bit_for_bit(kind, own_model, own_export, own_batch):
    family = FAMILIES[kind]
    check_checkpoint(str(own_export), refuse_unexpected=True)
    again = load_for_pretraining(str(own_export), "keep", 5)
    assert again.pooler_origin == "kept"
    assert not again.loading_info["missing_keys"] | again.loading_info["unexpected_keys"]
    for name, tensor in own_model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    body, status = load_encoder(str(own_export))
    assert status == "trained"
    for name, tensor in own_model.body.state_dict().items():
        assert torch.equal(tensor, body.state_dict()[name]), name
    assert torch.equal(body.pooler.dense.weight, load_file(own_export / "model.safetensors")[max(family.pooler_keys)])
    found = body.eval()(own_batch["original_ids"], own_batch["attention_mask"]).pooler_output
    assert torch.equal(found, own_model.sentence_vectors(own_batch["original_ids"], own_batch["attention_mask"]))
    assert json.loads((own_export / "config.json").read_text())["architectures"] == [family.masked_lm.__name__]


@EACH
def test_what_auto_model_sees(kind, own_model, own_export, own_batch):
    ids, mask = own_batch["original_ids"], own_batch["attention_mask"]
    model, info = AutoModel.from_pretrained(own_export, output_loading_info=True)
    assert not info["missing_keys"]
    torch.testing.assert_close(model(ids, mask).last_hidden_state, own_model(ids, mask).last_hidden_state)
    beside = {key for key in info["unexpected_keys"] if not FAMILIES[kind].in_mlm_head(key)}
    if kind in HIDDEN:
        assert beside == POOLER_KEYS
        assert not hasattr(model, "pooler")
    else:
        assert not beside
        torch.testing.assert_close(model(ids, mask).pooler_output, own_model.sentence_vectors(ids, mask))


@EACH
def test_a_missing_pooler(kind, own_config, own_tokenizer, tmp_path):
    FAMILIES[kind].masked_lm(own_config).save_pretrained(tmp_path)
    own_tokenizer.save_pretrained(tmp_path)
    check_checkpoint(str(tmp_path), refuse_unexpected=True)
    with pytest.raises(UserError, match=r"missing: pooler\.dense\.bias, pooler\.dense\.weight"):
        load_encoder(str(tmp_path), 1)
    first, second, third = (load_encoder(str(tmp_path), seed, pooler_required=False) for seed in (1, 1, 2))
    assert first[1] == "random"
    assert torch.equal(first[0].pooler.dense.weight, second[0].pooler.dense.weight)
    assert not torch.equal(first[0].pooler.dense.weight, third[0].pooler.dense.weight)


@EACH
def test_a_missing_mlm_head_is_drawn(kind, own_config, tmp_path):
    FAMILIES[kind].body(own_config).save_pretrained(tmp_path)
    model = load_for_pretraining(str(tmp_path), "keep", 1)
    head = model.get_output_embeddings()
    assert head.weight is model.get_input_embeddings().weight
    assert all(
        FAMILIES[kind].in_mlm_head(key) for key in model.loading_info["missing_keys"] - FAMILIES[kind].pooler_keys
    )


@EACH
@pytest.mark.parametrize("whole", [True, False])
def test_the_pooler_alone_is_trained(kind, whole, own_config, tmp_path):
    """Where the MLM head was drawn fresh, its own layers are trained along."""
    family = FAMILIES[kind]
    (family.masked_lm if whole else family.body)(own_config).save_pretrained(tmp_path)
    model = load_for_pretraining(str(tmp_path), "keep", 1)
    freeze_all_but_pooler(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = {name for name, _ in model.named_parameters() if family.in_mlm_head(name)}
    assert len(head) >= 3
    assert trained == family.pooler_keys | (set() if whole else head)


@EACH
@pytest.mark.parametrize("objective", ["bow", "decoder", "simcse", "sop", "nsp"])
def test_gradients_reach_the_pooler(kind, objective, own_config, own_model, own_tokenizer, tmp_path):
    rows = [text for text in TEXTS if len(text) > 30]
    texts = tokenise(Dataset.from_dict({"text": [f"{text} {text}" for text in rows]}), own_tokenizer, 60, tmp_path)
    surroundings = Surroundings(own_tokenizer, own_config, texts)
    if (kind, objective) == ("modernbert", "decoder"):
        with pytest.raises(UserError, match="position embeddings, and ModernBERT has none"):
            build_objective(objective_settings(objective), surroundings, seed=1)
        return
    built = build_objective(objective_settings(objective), surroundings, seed=1)
    batch = MaskedBatches(texts, own_tokenizer, MASKING, 1, built.needs)[[(0, n) for n in range(len(texts))]]
    output = own_model.train()(batch["input_ids"], batch["attention_mask"], token_type_ids=batch.get("token_type_ids"))
    built.losses(output.pooler_output, batch, own_model)[objective].backward()
    assert own_model.pooling_layer.dense.weight.grad.abs().sum() > 0
    assert own_model.get_input_embeddings().weight.grad.abs().sum() > 0


@EACH
def test_bow_with_a_fixed_head_leaves_it_alone(kind, own_config, own_model, own_tokenizer, own_batch, tmp_path):
    texts = tokenise(Dataset.from_dict({"text": TEXTS}), own_tokenizer, 32, tmp_path / "cache")
    surroundings = Surroundings(own_tokenizer, own_config, texts)
    vectors = own_model.sentence_vectors(own_batch["original_ids"], own_batch["attention_mask"]).detach()
    losses = []
    for trained in (True, False):
        own_model.zero_grad()
        leaf = vectors.clone().requires_grad_()
        loss = build_objective({**BOW, "train_mlm_head": trained}, surroundings, 1)(leaf, own_batch, own_model)
        loss.backward()
        losses.append(loss.item())
        assert leaf.grad.abs().sum() > 0
        assert (own_model.get_output_embeddings().weight.grad is not None) == trained
    assert losses[0] == losses[1]


@EACH
def test_parts_of_the_provenance(kind, own_model):
    tracker = ProvenanceTracker(own_model, None, 1)
    beside = {"final_norm"} if kind == "modernbert" else set()
    assert set(tracker.parts) == {"embeddings", "layer.0", "layer.1", "pooler", "mlm_head"} | beside
    assert part_of(max(FAMILIES[kind].pooler_keys), FAMILIES[kind]) == "pooler"


@EACH
def test_masks_fall_on_text_alone(own_tokenizer, own_batch):
    special = torch.tensor(own_tokenizer.all_special_ids)
    chosen = own_batch["labels"] != -100
    assert chosen.any()
    assert not torch.isin(own_batch["original_ids"][chosen], special).any()
    assert (own_batch["input_ids"][chosen] == own_tokenizer.mask_token_id).any()
    padding = own_batch["attention_mask"] == 0
    assert (own_batch["input_ids"][padding] == own_tokenizer.pad_token_id).all()


@EACH
def test_pairs_stand_between_the_tokenizers_own_separators(own_tokenizer, tmp_path):
    first, second = "The kettle is dull.", "A lovely film, again."
    assert sentence_end_ids(own_tokenizer)
    texts = tokenise(
        Dataset.from_dict({"text": [f"{first} {second}", f"{first} {second} {second}"]}), own_tokenizer, 60, tmp_path
    )
    pairs = SegmentPairs(texts, own_tokenizer).make(np.array([0]), "order", seed=1, epoch=0)
    ids, separator = pairs.rows.token_ids[0].tolist(), own_tokenizer.sep_token_id
    assert ids[0] == own_tokenizer.cls_token_id
    assert ids[-1] == separator
    assert ids.count(separator) == 2
    segments = [
        own_tokenizer.decode(ids[1 : ids.index(separator)]),
        own_tokenizer.decode(ids[ids.index(separator) + 1 : -1]),
    ]
    assert sorted(text.strip().lower().replace(" ", "") for text in segments) == sorted(
        text.lower().replace(" ", "") for text in (first, second)
    )


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "modernbert"])
def test_words_need_wordpiece(own_tokenizer, tmp_path):
    texts = tokenise(Dataset.from_dict({"text": TEXTS}), own_tokenizer, 32, tmp_path)
    with pytest.raises(UserError, match="need a WordPiece tokenizer"):
        word_starts(texts, own_tokenizer)


@EACH
def test_every_window_has_the_familys_special_tokens(kind, own_tokenizer, tmp_path):
    text = " ".join(TEXTS)
    opening, *pieces, closing = own_tokenizer(text)["input_ids"]
    found = tokenise(Dataset.from_dict({"text": [text]}), own_tokenizer, 12, tmp_path, LongTexts("windows", 0.3))
    ids, present = found.windows.padded(np.arange(len(found.windows)))
    assert present.all()
    assert (ids[:, 0] == opening).all()
    assert (ids[:, -1] == closing).all()
    assert ids[:-1, 1:8].ravel().tolist() == pieces[: 7 * (len(ids) - 1)]
    assert ids[-1, 1:-1].tolist() == pieces[-10:]


@EACH
def test_representations_read_the_states_of_all_layers(kind, own_export, own_batch):
    ids, mask = own_batch["original_ids"], own_batch["attention_mask"]
    assert layer_count(str(own_export)) == 2
    body = load_encoder(str(own_export))[0].eval()
    output = body(ids, mask, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    shape = EncoderShape.of(body.config)
    for name, layer in (("mean", 1), ("pooler", 0), ("layer_mix", None)):
        body = load_encoder(str(own_export))[0]
        pooler = body.pooler
        representation = REPRESENTATIONS[name](shape, layer=layer)
        built = SentimentClassifier(body, representation, classes=2, dropout=0.0).eval()
        assert torch.equal(
            built.vectors_of_windows({"input_ids": ids, "attention_mask": mask}),
            representation(output.hidden_states, mask, pooler),
        )


@EACH
@pytest.mark.parametrize("layer", [2, 1])
def test_learning_rates_fall_from_the_head_to_the_embeddings(kind, own_export, layer):
    """0.01 x 0.5^(K - l), K the layer that stands for the last; layers above K count like the head."""
    body = load_encoder(str(own_export))[0]
    representation = REPRESENTATIONS["pooler"](EncoderShape.of(body.config), layer=layer)
    classifier = SentimentClassifier(body, representation, classes=2, dropout=0.0)
    optimisation = Optimisation(learning_rate=0.01, weight_decay=0.1, warmup_share=0.0, gradient_clip_norm=1.0)
    groups = Sentiment(classifier, optimisation, layer_decay=0.5).parameter_groups()
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    expected = {}
    for name, parameter in classifier.named_parameters():
        number = re.search(r"layers?\.(\d+)\.", name)
        below = layer if "embeddings." in name else layer - 1 - int(number[1]) if number else 0
        expected[name] = (0.01 * 0.5 ** max(below, 0), 0.1 if parameter.ndim > 1 else 0.0)
    assert found == expected
    assert len({rate for rate, _ in found.values()}) == layer + 1
    assert groups[0]["lr"] == 0.01  # the one that is logged


@EACH
@pytest.mark.parametrize(("pooler", "layers"), [(True, []), (False, [2]), (True, [2, 1])])
def test_exactly_what_is_asked_for_is_drawn_anew(kind, own_export, pooler, layers):
    body = load_encoder(str(own_export))[0]
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(torch.randn_like(parameter))  # norms and biases too
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    reinitialise(body, pooler, layers, seed=7)
    after = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    parts = [f"{FAMILIES[kind].layers}.{number - 1}." for number in layers] + ["pooler."] * pooler
    drawn = {name for name in before if not torch.equal(before[name], after[name])}
    assert drawn == {name for name in before if name.startswith(tuple(parts))}
    fresh = FAMILIES[kind].body(body.config).state_dict()
    if kind in HIDDEN:
        fresh |= {"pooler.dense.weight": 0.02 * torch.randn(16, 16), "pooler.dense.bias": torch.zeros(16)}
    for name in drawn:
        if fresh[name].std() > 0:
            assert after[name].std() == pytest.approx(fresh[name].std().item(), rel=0.35), name  # 256 numbers or more
        else:
            assert torch.equal(after[name], fresh[name]), name
    if pooler:
        with drawn_with(7):
            dense = REPRESENTATIONS["cls_linear"](EncoderShape.of(body.config)).dense
        assert torch.equal(dense.weight, body.pooler.dense.weight)
    reinitialise(body, pooler, layers, seed=7)
    assert all(torch.equal(after[name], tensor) for name, tensor in body.state_dict().items())
    reinitialise(body, pooler, layers, seed=8)
    assert {name for name in drawn if not torch.equal(after[name], body.state_dict()[name])} == {
        name for name in drawn if fresh[name].ndim > 1
    }


@EACH
def test_the_longest_text_fits(kind, own_model, own_config, own_export, own_tokenizer):
    longest = longest_text(str(own_export))
    assert longest == (64 if "roberta" in kind else 66)
    ids = torch.full((1, longest), own_tokenizer.sep_token_id)
    own_model(ids, torch.ones_like(ids))


@ONE_QUICK
def test_both_stages_and_the_card(kind, own_config, own_tokenizer, program, monkeypatch, capsys, tmp_path):
    torch.manual_seed(1)
    FAMILIES[kind].masked_lm(own_config).save_pretrained(tmp_path / "start")
    own_tokenizer.save_pretrained(tmp_path / "start")
    small = [word for word in SMALL_RUN if not word.startswith("model.")]
    small += [f"model={tmp_path / 'start'}", "data.max_length=32"]
    stage1 = ["stage=mlm", "pretraining.epochs=1", "pretraining.batch_size=48", "objective=bow"]
    assert program(*stage1, *small) == 0
    shown = capsys.readouterr()
    told = " ".join((shown.out + shown.err).split())
    (made,) = (tmp_path / "runs" / "mlm").glob("*/export")
    noted = json.loads((made / "provenance.json").read_text())
    card = (made / "README.md").read_text()
    assert noted["pooler_status"] in ("trained", "collapsed")
    hidden = f"{FAMILIES[kind].name} has no pooler of its own, so AutoModel will not see ours"
    assert (hidden in told) == (hidden in card) == ("hidden_pooler" in noted) == (kind in HIDDEN)
    assert ("load_encoder" in card) == (kind in HIDDEN)
    AutoTokenizer.from_pretrained(made)
    stage2 = ["stage=sentiment", "stage1.epochs=1", "stage1.batch_size=48", "protocol.epochs=1"]
    stage2.append("objective@stage1.objective=bow")
    assert program(*stage2, *small, "repr=pooler", "data.train=32") == 0
    (record,) = (tmp_path / "runs" / "sentiment").glob("*/record.json")
    assert json.loads(record.read_text())["pooler_status"] == noted["pooler_status"]

    monkeypatch.setenv("COLUMNS", "80")
    for folder, code in ((made, 0), (tmp_path / "start", 1)):
        monkeypatch.setattr(sys, "argv", ["inspect", str(folder)])
        with pytest.raises(SystemExit) as leaving:
            inspect.main()
        printed = " ".join(capsys.readouterr().out.split())
        assert leaving.value.code == code
        assert f"{kind}, 2 layers, 16 wide" in printed
        assert ("AutoModel will not see" in printed) == (kind in HIDDEN)
        assert ("it lies in model.safetensors as pooler.dense.weight" in printed) == (kind in HIDDEN and folder == made)


REFUSED = {("transformers", word) for word in ("mean", *HIDDEN)}
"""Exports that have no such form, by representation or by family."""


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["pooler", "cls", "mean"])
@EACH
def test_exports_compute_what_the_run_does(kind, name, form, own_export, own_tokenizer, tmp_path):
    folder = write_run(tmp_path / "runs", name, 1, [3, 5], 0.9)
    body, _ = load_encoder(str(own_export))
    representation = build_representation({"name": name, "layer": None}, EncoderShape.of(body.config))
    classifier = SentimentClassifier(body, representation, 2, dropout=0.1)
    torch.nn.init.normal_(classifier.head.weight)
    reading, long_texts = {"name": name, "layer": None}, {"read": "head", "overlap": 0.0}
    notes = Notes(reading, representation.formula_here, ["bad", "good"], 2.0, 32, long_texts, None, None)
    save(folder / MODEL_FOLDER, notes, classifier, classifier.encoder, own_tokenizer)
    trained, texts, written = load(folder), checked_texts(32), tmp_path / "written"
    written.mkdir()
    if {(form, name), (form, kind)} & REFUSED:
        with pytest.raises(UserError, match="--to onnx"):
            FORMS[form].write(trained, written)
        return
    FORMS[form].write(trained, written)
    found = np.array(READERS[form](str(written), texts, 32))
    np.testing.assert_allclose(found, FORMS[form].expected(trained, texts), atol=FORMS[form].tolerance)


def test_another_family_is_refused_with_the_list(tmp_path):
    GPT2Model(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    listed = (
        r"holds a gpt2 model .*supported families: BERT \(bert\), RoBERTa \(roberta\), XLM-RoBERTa \(xlm-roberta\), "
        r"DistilBERT \(distilbert\), ModernBERT \(modernbert\)"
    )
    for read in (
        lambda: check_checkpoint(str(tmp_path), refuse_unexpected=False),
        lambda: load_encoder(str(tmp_path)),
        lambda: load_for_pretraining(str(tmp_path), "keep", 1),
        lambda: inspect.inspect_checkpoint(tmp_path),
    ):
        with pytest.raises(UserError, match=listed):
            read()


@pytest.mark.parametrize("kind", ["roberta"])
def test_a_tokenizer_without_a_mask_token(own_config, own_tokenizer, program, capsys, tmp_path):
    FAMILIES["roberta"].masked_lm(own_config).save_pretrained(tmp_path / "start")
    own_tokenizer.save_pretrained(tmp_path / "start")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = tmp_path / "start" / name
        if file.is_file():
            kept = {key: value for key, value in json.loads(file.read_text()).items() if key != "mask_token"}
            kept["tokenizer_class"] = "PreTrainedTokenizerFast"
            file.write_text(json.dumps(kept))
    small = [word for word in SMALL_RUN if not word.startswith("model.")]
    assert program("stage=mlm", *small, f"model={tmp_path / 'start'}", "data.max_length=32") != 0
    assert "has no mask token" in " ".join(capsys.readouterr().err.split())


@EACH
def test_a_last_layer_that_is_computed_where_it_is_read_changes_nothing(own_model, own_batch, kind):
    model = own_model.eval()
    assert model.reads_last_layer_in_part == (kind != "modernbert")
    given = {name: own_batch[name] for name in ("input_ids", "attention_mask", "labels", "masked_positions")}
    if kind == "modernbert":
        return
    rows: list[int] = []
    layer = model.body.get_submodule(model.family.layers)[-1]
    layer.register_forward_hook(lambda _, states, found: rows.append(found.shape[:-1].numel()))
    found = []
    for only_read in (False, True):
        model.zero_grad()
        output = model(**given, masked_only=True, only_read=only_read)
        (output.loss + output.pooler_output.square().sum()).backward()
        gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
        found.append({"loss": output.loss, "logits": output.logits, "pooled": output.pooler_output, **gradients})
    assert output.last_hidden_state is None
    masked = len(given["masked_positions"])
    assert rows == [given["input_ids"].numel(), len(given["input_ids"]) + masked + -masked % 32]
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="only_read=True needs masked_only=True"):
        model(**given, only_read=True)
    layer.gradient_checkpointing = True
    assert not model.reads_last_layer_in_part
    with pytest.raises(ValueError, match="reads_last_layer_in_part"):
        model(**given, masked_only=True, only_read=True)


@EACH
@pytest.mark.parametrize("name", ["cls", "pooler", "cls_linear", "cls_scaled", "mean"])
def test_a_classifier_computes_the_last_layer_at_token_0_where_it_reads_no_more(own_export, own_batch, kind, name):
    body, _ = load_encoder(str(own_export))
    representation = build_representation({"name": name, "layer": None}, EncoderShape.of(body.config))
    classifier = SentimentClassifier(body, representation, 2, dropout=0.0).eval()
    rows: list[int] = []
    layer = body.get_submodule(family_of(body.config).layers)[-1]
    layer.register_forward_hook(lambda _, states, found: rows.append(found.shape[:-1].numel()))
    batch = {key: own_batch[key] for key in ("input_ids", "attention_mask")}
    vectors = {}
    for classifier.training in (True, False):  # of this module alone: nothing is dropped
        vectors[classifier.training] = classifier.vectors_of_windows(batch)
    torch.testing.assert_close(vectors[True], vectors[False], atol=1e-5, rtol=1e-4)
    alone = name != "mean" and kind != "modernbert"
    every = batch["input_ids"].numel()
    assert rows == [len(batch["input_ids"]) if alone else every, every]


def flash_attention(queries, keys, values, starts, same, longest, as_long, dropout, causal, debug, scale):
    """What torch's flash attention computes of whole texts, (K, heads, D), one after the other."""
    assert torch.equal(starts, same)
    assert (dropout, causal, debug) == (0.0, False, False)
    assert longest == as_long >= int(starts.diff().max())
    texts = [each.split(starts.diff().tolist()) for each in (queries, keys, values)]
    attended = []
    for query, key, value in zip(*texts, strict=True):
        scores = torch.einsum("qhd,khd->hqk", query, key) * scale
        attended.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value))
    return torch.cat(attended), None


@EACH
@pytest.mark.parametrize("by_flash", [False, True])
def test_without_padding_loss_states_and_gradients_are_the_same(
    own_model, own_batch, kind, by_flash, monkeypatch, tmp_path
):
    if by_flash:  # as on a GPU
        monkeypatch.setattr("poolwise.packing.flash_takes", lambda dtype, head_size, device: True)
        monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash_attention)
    model = own_model.eval()
    given = {name: own_batch[name] for name in ("input_ids", "attention_mask", "labels", "masked_positions")}
    if not model.family.can_leave_out_padding:
        with pytest.raises(ValueError, match="ModernBERT has an attention of its own"):
            model.leave_out_padding()
        return

    def passed(**how: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        model.zero_grad()
        output = model(**given, masked_only=True, **how)
        (output.loss + output.pooler_output.square().sum()).backward()
        return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    padded, expected = passed()
    present = own_batch["attention_mask"].numpy().astype(bool)
    assert not present.all()
    with pytest.raises(ValueError, match="leave_out_padding"):
        passed(packing=Packing.of(present))
    model.leave_out_padding()
    packed, gradients = passed(packing=Packing.of(present))
    at_tokens = own_batch["attention_mask"] == 1
    torch.testing.assert_close(packed.loss, padded.loss)
    torch.testing.assert_close(packed.pooler_output, padded.pooler_output)
    torch.testing.assert_close(packed.last_hidden_state[at_tokens], padded.last_hidden_state[at_tokens])
    assert (packed.last_hidden_state[~at_tokens] == 0).all()
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(passed()[0].last_hidden_state[at_tokens], padded.last_hidden_state[at_tokens])
    model.save_pretrained(tmp_path / "saved")
    assert "packed" not in (tmp_path / "saved/config.json").read_text()
