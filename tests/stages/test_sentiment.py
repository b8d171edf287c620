from dataclasses import replace
from unittest.mock import Mock

import lightning
import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef, recall_score
from sklearn.utils.class_weight import compute_sample_weight
from transformers import BertModel

from helpers import TEXTS, quiet_trainer
from poolwise.data.batching import LabelledBatches
from poolwise.data.imbalance import class_weights
from poolwise.data.module import labelled_data
from poolwise.data.tokens import tokenise
from poolwise.representations import REPRESENTATIONS, EncoderShape, TokenStates
from poolwise.settings import Optimisation
from poolwise.stages.sentiment import Scores, Sentiment, SentimentClassifier, macro_f1, recall_by_class, scores_of

OPTIMISATION = Optimisation(learning_rate=1e-2, weight_decay=0.01, warmup_share=0.1, gradient_clip_norm=1.0)


def classifier(config, name="pooler", classes=2):
    torch.manual_seed(3)
    encoder = BertModel(config)
    representation = REPRESENTATIONS[name](EncoderShape.of(config))
    return SentimentClassifier(encoder, representation, classes, dropout=0.1)


class Modes(lightning.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        self.seen.append(all(module.training for module in stage.classifier.modules()))


class Gradients(lightning.Callback):
    """Keeps the gradients of each step, before they are clipped."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, stage, optimizer):
        self.steps.append({name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None})


def fit(stage, texts):
    modes = Modes()
    trainer = quiet_trainer(2, modes)
    lightning.seed_everything(1, verbose=False)
    data = labelled_data({"train": texts, "dev": texts, "test": texts}, 2, seed=1, workers=0)
    trainer.fit(stage, data)
    return trainer, data, modes


@pytest.mark.parametrize("name", sorted(REPRESENTATIONS))
def test_encoder_representation_and_head_are_all_trained_in_train_mode(config, texts, name):
    config.num_hidden_layers = 4  # as many as some read
    stage = Sentiment(classifier(config, name), OPTIMISATION)
    before = {key: value.clone() for key, value in stage.classifier.state_dict().items()}
    _, _, modes = fit(stage, texts)
    assert modes.seen == [True] * 6
    unmoved = [n for n, p in stage.classifier.named_parameters() if torch.equal(before[n], p)]
    assert unmoved == []


def test_a_batch_equals_smaller_ones_that_are_accumulated(config, tokenizer, tmp_path):
    """The mean over labelled texts, whichever batch they are in: 5 texts, or 2, 2 and 1 of them."""
    texts = tokenise(Dataset.from_dict({"text": TEXTS[:5], "label": [0, 1, 1, 0, 1]}), tokenizer, 32, tmp_path)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    start = classifier(config).state_dict()
    found = []
    for batch_size, accumulated in ((8, 1), (2, 3)):
        stage = Sentiment(classifier(config), replace(OPTIMISATION, learning_rate=0.0))
        stage.classifier.load_state_dict(start)
        stage.classifier.dropout.p = 0.0
        seen = Gradients()
        data = labelled_data({"train": texts, "dev": texts, "test": texts}, batch_size, seed=1, workers=0)
        quiet_trainer(1, seen, accumulate_grad_batches=accumulated).fit(stage, data)
        (gradients,) = seen.steps
        found.append(gradients)
    assert found[0].keys() == found[1].keys()
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)


def test_a_mix_of_layers_finds_the_one_that_knows_within_an_encoders_usual_steps(config):
    config.num_hidden_layers = 4
    slow = Optimisation(learning_rate=5e-5, weight_decay=0.01, warmup_share=0.1, gradient_clip_norm=1.0)
    stage = Sentiment(classifier(config, "layer_mix"), slow)
    *_, head, own = groups = stage.parameter_groups()
    mix = stage.classifier.representation
    assert own == {"params": [mix.weights, mix.scale], "weight_decay": 0.0, "lr": 1e-2}
    assert head["lr"] == 5e-5
    labels = torch.arange(64) % 2
    noise = [torch.randn(32, 1, config.hidden_size).repeat_interleave(2, dim=0) for _ in range(5)]  # alike for both
    layers = [TokenStates(states, torch.ones(64, 1, dtype=torch.int64)) for states in noise]
    layers[2].states[:, 0, 0] = 2.0 * labels - 1.0
    optimizer = torch.optim.AdamW(groups)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(stage.classifier.head(mix.of_layers(layers, None)), labels).backward()
        optimizer.step()
    assert mix.weights.softmax(dim=0).argmax() == 2
    assert mix.weights.softmax(dim=0)[2] > 0.5


def test_evaluation_keeps_one_prediction_an_example_in_order(config, texts):
    stage = Sentiment(classifier(config), OPTIMISATION)
    trainer, data, _ = fit(stage, texts)
    trainer.test(stage, data, verbose=False)
    assert set(stage.predictions) == {"dev", "test"}
    predictions = stage.predictions["test"]
    assert predictions["examples"].tolist() == list(range(len(texts)))
    assert predictions["labels"].tolist() == texts.labels.tolist()
    stage.eval()
    with torch.no_grad():
        alone = stage.classifier(LabelledBatches(texts)[[(0, 4)]])
    torch.testing.assert_close(predictions["logits"][4], alone[0], rtol=1e-4, atol=1e-5)
    assert stage.vectors["examples"].tolist() == list(range(len(texts)))
    with torch.no_grad():
        torch.testing.assert_close(stage.classifier.head(stage.vectors["vectors"]), predictions["logits"])
    accuracy = (predictions["logits"].argmax(dim=1) == predictions["labels"]).float().mean()
    torch.testing.assert_close(trainer.callback_metrics["test/accuracy"], accuracy)


@pytest.mark.parametrize("name", ["cls", "pooler", "max", "attention"])
def test_the_vector_of_a_text_is_the_mean_over_its_windows_alone(config, windowed, name):
    built = classifier(config, name).double().eval()
    numbers = [1, 0, 2, 3]
    batch = LabelledBatches(windowed)[[(0, number) for number in numbers]]
    assert batch["windows"] == np.diff(windowed.window_offsets)[numbers].tolist()
    assert len(batch["labels"]) == 4 < len(batch["input_ids"]) == sum(batch["windows"])
    with torch.no_grad():
        together = built.vectors(batch)
        for vector, number in zip(together, numbers, strict=True):
            windows = windowed.windows_of(np.array([number]))[0].tolist()
            alone = [built.vectors(LabelledBatches(windowed.windows)[[(0, window)]])[0] for window in windows]
            torch.testing.assert_close(vector, torch.stack(alone).mean(dim=0), rtol=1e-12, atol=1e-12)


def test_windows_of_a_text_are_trained_on_and_told_as_one(config, windowed):
    """The loss and its gradient are means over texts, however many windows they have."""
    stage = Sentiment(classifier(config), OPTIMISATION)
    trainer, data, _ = fit(stage, windowed)
    trainer.test(stage, data, verbose=False)
    assert stage.predictions["test"]["examples"].tolist() == [0, 1, 2, 3]
    assert stage.tokens == 2 * windowed.lengths.sum()
    stage.eval()
    with torch.no_grad():
        every = [stage.classifier(LabelledBatches(windowed)[[(0, number)]])[0] for number in range(4)]
    torch.testing.assert_close(stage.predictions["test"]["logits"], torch.stack(every), rtol=1e-4, atol=1e-5)
    losses = torch.nn.functional.cross_entropy(torch.stack(every), torch.from_numpy(windowed.labels))
    torch.testing.assert_close(stage.figures["test"]["test/loss"], losses, rtol=1e-4, atol=1e-5)


def test_vectors_of_some_test_texts_are_kept(config, texts, monkeypatch):
    monkeypatch.setattr("poolwise.stages.sentiment.TEXTS", 3)
    stage = Sentiment(classifier(config), OPTIMISATION)
    data = labelled_data({"train": texts, "dev": texts, "test": texts}, 2, seed=1, workers=0)
    quiet_trainer(1, Modes()).test(stage, data, verbose=False)
    assert stage.vectors["examples"].tolist() == [0, 2, 5]
    assert stage.vectors["vectors"].shape == (3, config.hidden_size)


class Moved(lightning.Callback):
    """Which parts of the classifier each epoch moved."""

    def __init__(self, classifier):
        self.classifier, self.parts = classifier, []
        self.before = self.state()

    def state(self):
        return {name: parameter.detach().clone() for name, parameter in self.classifier.named_parameters()}

    def on_train_epoch_end(self, trainer, stage):
        now = self.state()
        moved = {name for name in now if not torch.equal(now[name], self.before[name])}
        whole = {"embeddings": "encoder.embeddings.", "1": "layer.0.", "2": "layer.1.", "above": ("head", "pooler")}
        self.parts.append(
            {
                part: {name in moved for name in now if (name.startswith(key) if part == "above" else key in name)}
                for part, key in whole.items()
            }
        )
        self.before = now


@pytest.mark.parametrize("layer", [None, 1])
def test_layers_not_yet_unfrozen_stay_bit_for_bit(config, texts, layer):
    """Head and pooler from the start, then a layer more each epoch, from the one that is read; embeddings last."""
    torch.manual_seed(3)
    representation = REPRESENTATIONS["pooler"](EncoderShape.of(config), layer=layer)
    built = SentimentClassifier(BertModel(config), representation, 2, dropout=0.1)
    stage = Sentiment(built, OPTIMISATION, gradual_unfreezing=True)
    moved = Moved(built)
    data = labelled_data({"train": texts, "dev": texts, "test": texts}, 2, seed=1, workers=0)
    quiet_trainer(4, moved).fit(stage, data)
    last = 2 if layer is None else layer
    for epoch, parts in enumerate(moved.parts):
        assert parts["above"] == {True}
        for number in (1, 2):
            assert parts[str(number)] == {number <= last and number > last - epoch}
        assert parts["embeddings"] == {epoch > last}


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_agree_with_scikit_learn(classes):
    torch.manual_seed(0)
    scores = Scores("test", classes)
    logits, labels = torch.randn(60, classes), torch.arange(60) % classes
    order = torch.randperm(60)
    for part in order.split(7):
        scores.update({"examples": part, "labels": labels[part]}, logits[part])
    figures, predictions = scores.finish()
    guesses = logits.argmax(dim=1)
    assert figures["test/accuracy"].item() == pytest.approx(accuracy_score(labels, guesses))
    assert figures["test/macro_f1"].item() == pytest.approx(f1_score(labels, guesses, average="macro"))
    assert figures["test/matthews"].item() == pytest.approx(matthews_corrcoef(labels, guesses), abs=1e-6)
    assert figures["test/loss"].item() == pytest.approx(log_loss(labels, logits.double().softmax(1)), abs=1e-5)
    assert figures["test/calibration_error"].item() == pytest.approx(expected_calibration_error(logits, labels))
    assert torch.equal(predictions["logits"], logits)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_macro_f1_by_counts_is_that_of_the_scores(classes):
    """With classes that no text has or no answer names, and with ties; bit for bit, as equal ones are told by order."""
    random = np.random.default_rng(classes)
    for examples in (1, 4, 33):
        logits = random.normal(size=(examples, classes)).round(1)
        labels = random.integers(0, classes, examples)
        assert macro_f1(logits, labels) == float(scores_of("dev", logits, labels)[0]["dev/macro_f1"])


def expected_calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Guo et al. 2017, equation 3, in plain numpy."""
    confidence, guess = (values.numpy() for values in logits.softmax(dim=1).max(dim=1))
    correct = guess == labels.numpy()
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return float(sum(gaps))


def test_recall_counts_the_classes_that_there_are():
    torch.manual_seed(0)
    logits, labels = torch.randn(60, 4), torch.arange(60) % 3
    figures, _ = scores_of("test", logits.numpy(), labels.numpy())
    guesses = logits.argmax(dim=1)
    expected = recall_score(labels, guesses, average=None, labels=[0, 1, 2])
    assert recall_by_class(labels, logits).tolist() == pytest.approx([*expected, np.nan], nan_ok=True)
    assert figures["test/balanced_accuracy"].item() == pytest.approx(expected.mean())


def test_class_weights_have_classes_count_alike(config):
    """The loss is that of scikit-learn's weights, and its gradient that of the rarer class three times over."""
    labels, logits = torch.tensor([0, 1, 0, 0]), torch.randn(4, 2, requires_grad=True)
    weights = torch.from_numpy(class_weights(labels.numpy(), 2)).float()
    stage = Sentiment(classifier(config), OPTIMISATION, class_weights=weights)
    loss = stage.loss(logits, labels)
    of_each = compute_sample_weight("balanced", labels.numpy())
    expected = log_loss(labels, logits.detach().double().softmax(1), sample_weight=of_each)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    repeated = torch.tensor([0, 2, 3, 1, 1, 1])
    reference = torch.nn.functional.cross_entropy(logits[repeated], labels[repeated])
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(reference, logits))
    parts = [stage.loss(logits[part], labels[part]) for part in (slice(0, 2), slice(2, 4))]  # one is of one class
    torch.testing.assert_close(torch.stack(parts).mean(), loss)
    assert "class_weights" not in stage.state_dict()


def test_matthews_of_a_constant_answer_is_zero():
    scores, labels = Scores("dev", 2), (torch.arange(100) < 10).long()
    scores.update({"examples": torch.arange(100), "labels": labels}, torch.tensor([[1.0, 0.0]]).repeat(100, 1))
    assert scores.finish()[0]["dev/matthews"].item() == 0.0


def test_scores_that_could_not_be_finished_are_not_those_of_the_next(monkeypatch):
    logits, labels = np.eye(3), np.arange(3)
    expected, _ = scores_of("dev", logits, labels)
    with monkeypatch.context() as failing:
        failing.setattr(Scores, "finish", Mock(side_effect=RuntimeError("out of luck")))
        with pytest.raises(RuntimeError, match="out of luck"):
            scores_of("dev", logits, np.zeros(3, np.int64))
    found, predictions = scores_of("dev", logits, labels)
    assert found == expected
    assert predictions["labels"].tolist() == [0, 1, 2]


def test_scores_start_anew_after_finish():
    scores = Scores("dev", 2)
    for _ in range(2):
        scores.update({"examples": torch.tensor([0, 1]), "labels": torch.tensor([0, 1])}, torch.eye(2))
        figures, predictions = scores.finish()
        assert figures["dev/accuracy"].item() == 1.0
        assert len(predictions["labels"]) == 2


def test_figures_of_logits_in_bf16_are_those_of_the_answers_that_are_kept():
    """A softmax in bf16 makes these two alike, and would answer with the first."""
    scores = Scores("dev", 2)
    logits = torch.tensor([[0.0, 0.001], [0.001, 0.0]], dtype=torch.bfloat16)
    scores.update({"labels": torch.tensor([1, 0]), "examples": torch.arange(2)}, logits)
    figures, predictions = scores.finish()
    assert figures["dev/accuracy"] == figures["dev/macro_f1"] == 1
    assert predictions["logits"].argmax(dim=1).tolist() == [1, 0]
