import json
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from functorch.compile import make_boxed_func
from safetensors.torch import load_file, save_file
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from poolwise import checkpoints
from poolwise.checkpoints import check_checkpoint, file_hash, fingerprint, pooler_notes, provenance_of, weights_file
from poolwise.encoder import (
    BertForMaskedLMWithPooler,
    MaskedLMWithPooler,
    build_from_scratch,
    check_pooler,
    export,
    load_encoder,
    load_for_pretraining,
    load_pooler,
    never_trained,
    scratch_parameters,
)
from poolwise.families import FAMILIES
from poolwise.representations import EncoderShape
from poolwise.settings import ScratchModel, UserError

IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 10, 11, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
LABELS = torch.tensor([[-100, 7, -100, 9, -100], [-100, -100, 11, -100, -100]])
PROVENANCE = {"pooler_status": "trained", "parts": {}}


@pytest.fixture
def exported(model: MaskedLMWithPooler, tokenizer: BertTokenizer, tmp_path: Path) -> Path:
    torch.nn.init.normal_(model.bert.pooler.dense.bias)
    export(model, tokenizer, PROVENANCE, "# card", tmp_path / "export")
    return tmp_path / "export"


def save_plain_mlm(config: BertConfig, folder: Path) -> Path:
    torch.manual_seed(1)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_logits_and_loss_equal_those_of_bert_for_masked_lm(config, tmp_path):
    folder = save_plain_mlm(config, tmp_path)
    reference = BertForMaskedLM.from_pretrained(folder)
    ours = BertForMaskedLMWithPooler.from_pretrained(folder)
    expected = reference(IDS, MASK, labels=LABELS)
    found = ours(IDS, MASK, labels=LABELS)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.pooler_output.shape == (2, config.hidden_size)
    assert found.last_hidden_state.shape == (2, 5, config.hidden_size)


def test_masked_only_gives_the_same_loss_and_gradients(model):
    model.eval()
    losses, gradients = [], []
    for masked_only in (False, True):
        model.zero_grad()
        output = model(IDS, MASK, labels=LABELS, masked_only=masked_only)
        output.loss.backward()
        losses.append(output.loss.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert output.logits.shape == (3, model.config.vocab_size)
    torch.testing.assert_close(losses[0], losses[1])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


@pytest.mark.parametrize("masked_only", [False, True])
def test_a_batch_without_a_masked_position_has_loss_zero(model, masked_only):
    output = model(IDS, MASK, labels=torch.full_like(IDS, -100), masked_only=masked_only)
    assert output.loss.item() == 0.0
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("masked", [1, 31, 32, 33])
def test_logits_are_made_for_a_multiple_of_rows_and_given_for_the_masked_ones(model, monkeypatch, masked):
    ids = torch.arange(40).view(2, 20) % 20 + 5
    labels = torch.where(torch.arange(40).view(2, 20) < masked, ids, -100)
    rows, logits_of = [], model.mlm_logits
    monkeypatch.setattr(model, "mlm_logits", lambda states: rows.append(len(states)) or logits_of(states))
    output = model.eval()(ids, torch.ones_like(ids), labels=labels, masked_only=True)
    assert rows == [32 * -(-masked // 32)]
    assert output.logits.shape == (masked, model.config.vocab_size)
    every = functional.log_softmax(logits_of(output.last_hidden_state).flatten(0, 1)[:masked], dim=-1)
    expected = -every.gather(1, ids.flatten()[:masked, None]).mean()
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as torch looks at it
def test_compiled_layers_compute_what_layers_do_in_training_alone(config, monkeypatch):
    graphs = []

    def kept(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    compiling = partial(torch.compile, backend=aot_autograd(fw_compiler=kept, bw_compiler=kept))
    monkeypatch.setattr(torch, "compile", compiling)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = BertForMaskedLMWithPooler(config).train()
    found = {}
    for name in ("eager", "compiled"):
        if name == "compiled":
            model.compile_layers()
        output = model(IDS, MASK, labels=LABELS)
        alone = torch.autograd.grad(output.loss, model.bert.encoder.layer[0].output.dense.weight, retain_graph=True)
        model.zero_grad()
        output.loss.backward()
        found[name] = [output.loss, *alone, *(p.grad for p in model.parameters() if p.grad is not None)]
    for own, expected in zip(found["compiled"], found["eager"], strict=True):
        torch.testing.assert_close(own, expected)
    assert len(graphs) == 2  # forward and backward, once for both layers
    model.eval()(IDS, MASK, labels=LABELS)
    model.train()(IDS[:, 1:], MASK[:, 1:], labels=LABELS[:, 1:])
    assert len(graphs) == 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as torch looks at it
@pytest.mark.parametrize("fails", ["forward", "backward"])
def test_layers_that_cannot_be_compiled_are_computed_as_they_are(config, monkeypatch, caplog, fails):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand more")

    def whole(graph, inputs):
        return make_boxed_func(graph.forward)

    compilers = {"fw_compiler": whole, "bw_compiler": broken} if fails == "backward" else {"fw_compiler": broken}
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=aot_autograd(**compilers)))
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = BertForMaskedLMWithPooler(config).train()
    expected = model(IDS, MASK, labels=LABELS).loss
    model.compile_layers()
    assert model.compiles_layers
    loss = model(IDS, MASK, labels=LABELS).loss
    assert loss.item() == expected.item()
    loss.backward()
    assert not model.compiles_layers
    (told,) = (each.getMessage() for each in caplog.records if each.name == "poolwise.encoder")  # once
    assert told.startswith("WARNING: layers cannot be compiled, and are computed as they are: ")
    assert "no compiler here" in told


def test_masked_only_without_labels_is_refused(model):
    with pytest.raises(ValueError, match="needs labels"):
        model(IDS, MASK, masked_only=True)


def test_one_encoder_pass_and_one_pooler(model, monkeypatch):
    passes = []
    forward = model.bert.encoder.forward
    monkeypatch.setattr(model.bert.encoder, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    model(IDS, MASK, labels=LABELS)
    assert len(passes) == 1
    assert [name for name, _ in model.named_parameters() if "pooler" in name] == [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    ]


def test_output_as_a_tuple_begins_with_the_loss(model):
    model.eval()
    assert torch.equal(model(IDS, MASK, labels=LABELS, return_dict=False)[0], model(IDS, MASK, labels=LABELS).loss)


def test_the_mlm_head_is_tied_to_the_embeddings(model):
    assert model.get_output_embeddings().weight is model.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    ("pooler_init", "bias", "origin"),
    [
        ("keep", 0.5, "kept"),
        ("fresh", 0.5, "fresh: asked for"),
        ("keep", 0.0, "fresh: the checkpoint's was never trained (it is as initialisation leaves it)"),
    ],
)
def test_pooler_init(config, tmp_path, caplog, pooler_init, bias, origin):
    torch.manual_seed(1)
    source = BertModel(config)
    torch.nn.init.constant_(source.pooler.dense.bias, bias)
    source.save_pretrained(tmp_path)
    with caplog.at_level("INFO", logger="poolwise"):
        model = BertForMaskedLMWithPooler.from_pretrained(tmp_path, pooler_init=pooler_init)
    assert model.pooler_origin == origin
    assert f"pooler {origin}" in caplog.text
    assert "has no MLM head" in caplog.text
    same = torch.equal(model.bert.pooler.dense.weight, source.pooler.dense.weight)
    assert same == (origin == "kept")


def test_a_missing_pooler_is_drawn_fresh_with_the_seed(config, tmp_path, caplog):
    folder = save_plain_mlm(config, tmp_path)
    first, second, third = (load_for_pretraining(str(folder), "keep", seed) for seed in (5, 5, 6))
    assert first.pooler_origin == "fresh: the checkpoint has none"
    assert "pooler fresh: the checkpoint has none" in caplog.text
    assert torch.equal(first.bert.pooler.dense.weight, second.bert.pooler.dense.weight)
    assert not torch.equal(first.bert.pooler.dense.weight, third.bert.pooler.dense.weight)
    assert first.bert.pooler.dense.weight.std().item() == pytest.approx(config.initializer_range, rel=0.2)


def test_unknown_pooler_init_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="must be keep or fresh"):
        BertForMaskedLMWithPooler.from_pretrained(save_plain_mlm(config, tmp_path), pooler_init="zero")


def test_loading_info_is_given_on_request(config, tmp_path):
    _, info = BertForMaskedLMWithPooler.from_pretrained(save_plain_mlm(config, tmp_path), output_loading_info=True)
    assert set(info["missing_keys"]) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_any_bert_checkpoint_loads(config, tmp_path):
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    model = BertForMaskedLMWithPooler.from_pretrained(tmp_path)
    assert not any("encoder" in key or "embeddings" in key for key in model.loading_info["missing_keys"])


def test_stage_1_refuses_a_checkpoint_that_is_not_whole(config, tmp_path):
    BertModel(config).save_pretrained(tmp_path)
    BertConfig(**{**config.to_dict(), "num_hidden_layers": 3}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is no whole BERT encoder; missing: bert\.encoder\.layer\.2"):
        load_for_pretraining(str(tmp_path), "keep", 1)


def test_the_fingerprint_is_of_weights_and_config(config, tmp_path):
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path)
    first = fingerprint(str(tmp_path))
    BertConfig(**{**config.to_dict(), "hidden_dropout_prob": 0.4}).save_pretrained(tmp_path)
    assert fingerprint(str(tmp_path)) != first


def test_loaded_models_are_in_train_mode(exported):
    assert load_for_pretraining(str(exported), "keep", 1).training
    encoder, _ = load_encoder(str(exported), 1, pooler_required=True)
    assert all(module.training for module in encoder.modules())


def test_export_round_trip(model, exported):
    assert {file.name for file in exported.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "provenance.json",
        "README.md",
    }
    outputs = []
    for _ in range(2):
        encoder, info = BertModel.from_pretrained(exported, output_loading_info=True)
        assert not info["missing_keys"]
        outputs.append(encoder(IDS, MASK).pooler_output)
    assert torch.equal(outputs[0], outputs[1])
    model.eval()
    torch.testing.assert_close(outputs[0], model(IDS, MASK).pooler_output)
    head, info = BertForMaskedLM.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"]
    torch.testing.assert_close(head(IDS, MASK).logits, model(IDS, MASK).logits)
    noted = json.loads((exported / "provenance.json").read_text())
    assert noted == {**PROVENANCE, "weights_sha256": file_hash(exported / "model.safetensors")}


def test_a_failed_export_leaves_what_was_there(model, tokenizer, exported, monkeypatch):
    before = weights_file(str(exported)).read_bytes()
    monkeypatch.setattr(tokenizer, "save_pretrained", Mock(side_effect=OSError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        export(model, tokenizer, PROVENANCE, "# card", exported)
    assert weights_file(str(exported)).read_bytes() == before
    assert [path.name for path in exported.parent.glob("export*")] == ["export"]


def test_plain_mlm_checkpoint_draws_a_pooler_at_each_load(config, tmp_path):
    folder = save_plain_mlm(config, tmp_path)
    first, second = (BertModel.from_pretrained(folder)(IDS, MASK) for _ in range(2))
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert not torch.equal(first.pooler_output, second.pooler_output)


def test_stage_2_refuses_a_checkpoint_without_its_pooler(config, tmp_path):
    folder = save_plain_mlm(config, tmp_path)
    with pytest.raises(UserError, match=r"missing: pooler\.dense\.bias, pooler\.dense\.weight"):
        load_encoder(str(folder), 1, pooler_required=True)
    assert load_encoder(str(folder), 1, pooler_required=False)[1] == "random"


def test_stage_2_refuses_unexpected_tensors(config, tmp_path):
    bigger = BertConfig(**{**config.to_dict(), "num_hidden_layers": 3})
    BertModel(bigger).save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"missing: none\n  unexpected: encoder\.layer\.2"):
        load_encoder(str(tmp_path), 1, pooler_required=True)


def test_pooler_status_of_other_checkpoints(config, tmp_path):
    source = BertModel(config)
    source.save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path), 1, pooler_required=True)[1] == "never trained"
    torch.nn.init.constant_(source.pooler.dense.bias, 0.5)
    source.save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path), 1, pooler_required=True)[1] == "as released"


def test_a_pooler_that_differs_from_the_disk_is_found(exported):
    encoder, _ = load_encoder(str(exported), 1, pooler_required=True)
    with torch.no_grad():
        encoder.pooler.dense.bias[0] += 1
    with pytest.raises(AssertionError, match="differs from"):
        check_pooler(encoder, weights_file(str(exported)), FAMILIES["bert"])


def test_the_pooler_is_loaded_alone_as_with_its_encoder(exported):
    alone, status = load_pooler(str(exported))
    body, status_of_body = load_encoder(str(exported))
    states = torch.randn(3, 4, body.config.hidden_size)
    assert torch.equal(alone.pooler(states), body.pooler(states))
    assert alone.pooler.state_dict().keys() == body.pooler.state_dict().keys()
    assert (status, EncoderShape.of(alone.config)) == (status_of_body, EncoderShape.of(body.config))


def test_weights_that_are_not_finite_are_told(model, tokenizer, exported, tmp_path):
    model.bert.encoder.layer[0].output.dense.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="new: the weights are not finite: training diverged"):
        export(model, tokenizer, PROVENANCE, "# card", tmp_path / "new")
    model.save_pretrained(exported)
    for load in (lambda: load_encoder(str(exported), 1, True), lambda: load_for_pretraining(str(exported), "keep", 1)):
        with pytest.raises(UserError, match="export: the weights are not finite"):
            load()


def test_a_checkpoint_that_does_not_change_is_checked_once(exported, monkeypatch):
    built = []
    build = checkpoints.body_with_pooler
    monkeypatch.setattr(checkpoints, "body_with_pooler", lambda family: built.append(family) or build(family))
    for _ in range(2):
        check_checkpoint(str(exported), refuse_unexpected=True)
    assert len(built) == 1
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    (exported / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        check_checkpoint(str(exported), refuse_unexpected=True)


def test_what_is_loaded_passes_the_check(exported, config, tokenizer, tmp_path):
    check_checkpoint(str(exported), refuse_unexpected=True)
    save_plain_mlm(config, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    check_checkpoint(str(tmp_path), refuse_unexpected=True)
    # Layer norms as in the checkpoints of 2019.
    weights = load_file(tmp_path / "model.safetensors")
    old = {key.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for key, tensor in weights.items()}
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    check_checkpoint(str(tmp_path), refuse_unexpected=True)
    load_encoder(str(tmp_path), 1, pooler_required=False)


def test_tensors_beside_the_encoder_are_for_stage_1_only(config, tokenizer, tmp_path):
    BertModel(BertConfig(**{**config.to_dict(), "num_hidden_layers": 3})).save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    check_checkpoint(str(tmp_path), refuse_unexpected=False)
    with pytest.raises(UserError, match=r"missing: none; unexpected: encoder\.layer\.2"):
        check_checkpoint(str(tmp_path), refuse_unexpected=True)


def test_the_note_of_another_program_is_left_aside(exported):
    (exported / "provenance.json").write_text('{"parts": []}')
    assert provenance_of(exported) == pooler_notes(exported) == {}
    assert load_encoder(str(exported), 1, pooler_required=True)[1] == "as released"


@pytest.mark.parametrize("content", ["{bad", "[]"])
def test_a_broken_provenance_is_named(exported, content):
    (exported / "provenance.json").write_text(content)
    for read in (lambda: provenance_of(exported), lambda: load_encoder(str(exported), 1, pooler_required=True)):
        with pytest.raises(UserError, match=r"provenance\.json cannot be read"):
            read()


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_parameters_are_counted_without_drawing_them(tokenizer, layers):
    sizes = {"hidden_size": 16, "layers": layers, "attention_heads": 2, "intermediate_size": 24}
    rates = {
        "mlm_learning_rate": 1e-3,
        "mlm_batch_size": 16,
        "mlm_pooler_learning_rate": None,
        "precision": "32-true",
        "finetune_learning_rate": 1e-3,
        "finetune_epochs": 1,
    }
    shape = ScratchModel("scratch", "s", 100, **sizes, dropout=0.0, initializer_range=0.1, **rates)
    assert scratch_parameters(shape, tokenizer) == build_from_scratch(shape, tokenizer, 1).num_parameters()


def test_a_folder_without_a_model_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load_encoder(str(tmp_path), 1, pooler_required=False)


def test_plain_torch_loop_trains_it(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.eval()
    losses = []
    for _ in range(15):
        loss = model(IDS, MASK, labels=LABELS, masked_only=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert model.bert.pooler.dense.weight.grad is None


def test_transformers_trainer_trains_it(model, tokenizer, tmp_path):
    """Without this framework: the library's own collator and loop; accumulated batches share one mean."""
    texts = [tokenizer(f"the screen is good but the battery number {n} is a failure") for n in range(16)]
    rows = [{"input_ids": text["input_ids"], "attention_mask": text["attention_mask"]} for text in texts]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=1,
    )
    before = model.bert.encoder.layer[0].output.dense.weight.clone()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, seed=1),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4
    # Near log V at the start: not doubled by the two accumulated batches.
    assert losses[0] == pytest.approx(torch.tensor(len(tokenizer)).float().log().item(), rel=0.1)
    assert not torch.equal(before, model.bert.encoder.layer[0].output.dense.weight)
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("size", [256, 384, 768])
def test_torchs_own_initialisation_is_told_and_one_step_of_adamw_makes_it_another_thing(size):
    torch.manual_seed(size)
    dense = torch.nn.Linear(size, size)
    assert (dense.bias != 0).all()
    assert never_trained(dense.weight, dense.bias)
    optimizer = torch.optim.AdamW(dense.parameters(), lr=1e-5)
    dense(torch.randn(4, size)).tanh().sum().backward()
    optimizer.step()
    assert not never_trained(dense.weight, dense.bias)


def test_weights_well_within_or_a_bias_beyond_the_bound_are_no_initialisation_of_torch():
    torch.manual_seed(0)
    dense = torch.nn.Linear(256, 256)
    assert not never_trained(0.99 * dense.weight, dense.bias)
    assert not never_trained(dense.weight, 2 * dense.bias)
    assert never_trained(2 * dense.weight, 0 * dense.bias)


def test_stage_1_and_stage_2_agree_on_a_pooler_as_torch_draws_it(config, tmp_path):
    config.hidden_size = 256
    body = BertModel(config)
    torch.manual_seed(0)
    body.pooler.dense.reset_parameters()
    body.save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path))[1] == "never trained"
    model = load_for_pretraining(str(tmp_path), "keep", 1)
    assert model.pooler_origin == "fresh: the checkpoint's was never trained (it is as initialisation leaves it)"
