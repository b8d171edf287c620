import weakref

import pytest
import torch

from helpers import BOW
from poolwise.encoder import BertForMaskedLMWithPooler
from poolwise.families import FAMILIES
from poolwise.objectives import build_objective
from poolwise.provenance import ProvenanceTracker, part_of, pooler_figures, pooler_warning, status

IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 10, 11, 3, 0]])
MASK = (IDS != 0).long()
BATCH = {"original_ids": IDS, "attention_mask": MASK}
GEOMETRY = {"effective_rank": 5.0, "mean_cosine": 0.5}
LABELS = torch.tensor([[-100, 7, -100, 9, -100], [-100, -100, 11, -100, -100]])


def trained(model, surroundings, objective: dict, steps: int = 3):
    """Plain steps on MLM plus the objective; returns the summary and the pooler's last gradient."""
    tracker = ProvenanceTracker(model, source=None, seed=7)
    built = build_objective(objective, surroundings, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        output = model(IDS, MASK, labels=LABELS, masked_only=True)
        losses = {"mlm": output.loss, **built.losses(output.pooler_output, BATCH, model)}
        if step in (0, 2):
            tracker.probe(losses)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        tracker.note_gradients()
        optimizer.step()
    return tracker.summary(GEOMETRY, GEOMETRY), model.bert.pooler.dense.weight.grad


def test_without_an_objective_the_pooler_gets_no_gradient_and_stays(model, surroundings):
    before = model.bert.pooler.dense.weight.clone()
    summary, gradient = trained(model, surroundings, {"name": "none"})
    assert gradient is None
    assert torch.equal(before, model.bert.pooler.dense.weight)
    pooler = summary["parts"]["pooler"]
    assert (pooler["losses"], pooler["steps"], pooler["distance_moved"]) == ([], 0, 0.0)
    assert summary["pooler_status"] == "random"
    assert summary["parts"]["layer.0"]["losses"] == ["mlm"]
    assert summary["parts"]["layer.0"]["distance_moved"] > 0


def test_gradients_of_one_loss_are_let_go_before_those_of_the_next_are_made(model, surroundings, monkeypatch):
    real, made = torch.autograd.grad, []

    def grad(*arguments, **named):
        assert [each for each in made if each() is not None] == []
        found = real(*arguments, **named)
        made.extend(weakref.ref(gradient) for gradient in found if gradient is not None)
        return found

    monkeypatch.setattr(torch.autograd, "grad", grad)
    trained(model, surroundings, BOW)
    assert len(made) > 4 * len(list(model.bert.parameters())) - 8


def test_with_bow_the_pooler_gets_a_gradient_and_moves(model, surroundings):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    summary, gradient = trained(model, surroundings, BOW)
    assert gradient.abs().sum() > 0
    pooler = summary["parts"]["pooler"]
    assert pooler["losses"] == ["bow"]
    assert pooler["steps"] == 3
    assert pooler["mean_gradient_norm"] > 0
    assert summary["pooler_status"] == "trained"
    assert summary["parts"]["layer.1"]["losses"] == ["bow", "mlm"]
    moved = [p - before[name] for name, p in model.named_parameters() if "pooler" in name]
    expected = torch.cat([m.flatten() for m in moved]).norm().item()
    assert pooler["distance_moved"] == pytest.approx(expected, rel=1e-5)


def test_gradient_norms_are_those_of_each_loss_alone(model, surroundings):
    model.eval()
    tracker = ProvenanceTracker(model, source=None, seed=7)
    built = build_objective(BOW, surroundings, seed=1)
    output = model(IDS, MASK, labels=LABELS, masked_only=True)
    bow = built(output.pooler_output, BATCH, model)
    tracker.probe({"mlm": output.loss, "bow": bow})
    bow.backward()
    pooler = torch.cat([p.grad.flatten() for p in model.bert.pooler.parameters()]).norm().item()
    tracker.note_gradients()
    part = tracker.summary(GEOMETRY, GEOMETRY)["parts"]["pooler"]
    assert part["gradient_norm_by_loss"] == {"bow": pytest.approx(pooler, rel=1e-5)}
    assert part["mean_gradient_norm"] == pytest.approx(pooler, rel=1e-5)


def test_a_loss_of_weight_zero_has_reached_nothing(model, surroundings):
    tracker = ProvenanceTracker(model, source=None, seed=7)
    output = model(IDS, MASK, labels=LABELS, masked_only=True)
    built = build_objective(BOW, surroundings, seed=1)
    tracker.probe({"bow": 0.0 * built(output.pooler_output, BATCH, model)})
    assert tracker.summary(GEOMETRY, GEOMETRY)["parts"]["pooler"]["losses"] == []


def test_a_step_that_overflowed_counts_for_nothing(model):
    tracker = ProvenanceTracker(model, source=None, seed=7)
    model.bert.pooler.dense.bias.grad = torch.full_like(model.bert.pooler.dense.bias, torch.inf)
    tracker.note_gradients()
    pooler = tracker.summary(GEOMETRY, GEOMETRY)["parts"]["pooler"]
    assert (pooler["steps"], pooler["mean_gradient_norm"]) == (0, 0.0)


def test_every_parameter_has_one_part(model):
    tracker = ProvenanceTracker(model, source=None, seed=7)
    assert set(tracker.parts) == {"embeddings", "layer.0", "layer.1", "pooler", "mlm_head"}
    counted = sum(p.numel() for group in tracker.parts.values() for p in group)
    assert counted == sum(p.numel() for p in model.parameters())
    assert part_of("cls.predictions.transform.dense.weight", FAMILIES["bert"]) == "mlm_head"


def test_origins_name_the_file_and_what_was_drawn_fresh(config, tmp_path):
    from transformers import BertModel

    source = BertModel(config)
    source.save_pretrained(tmp_path)
    model = BertForMaskedLMWithPooler.from_pretrained(tmp_path)
    parts = ProvenanceTracker(model, source="base, sha256 abc", seed=7).summary(GEOMETRY, GEOMETRY)["parts"]
    assert parts["layer.0"]["origin"] == parts["embeddings"]["origin"] == "base, sha256 abc"
    assert parts["mlm_head"]["origin"] == "fresh (seed 7)"
    assert parts["pooler"]["origin"].startswith("fresh: the checkpoint's was never trained")
    assert parts["pooler"]["origin"].endswith("(seed 7)")


@pytest.mark.parametrize(
    ("origin", "steps", "moved", "encoder_steps", "expected"),
    [
        ("fresh (seed 1)", 5, 0.1, 5, "trained"),
        ("fresh (seed 1)", 5, 0.1, 10, "trained"),
        ("fresh (seed 1)", 5, 0.1, 11, "stale"),
        ("base", 5, 0.1, 11, "stale"),
        ("base", 5, 0.1, 0, "trained"),
        ("fresh (seed 1)", 0, 0.0, 5, "random"),
        ("base", 0, 0.0, 5, "stale"),
        ("base", 0, 0.0, 0, "as released"),
    ],
)
def test_status(origin, steps, moved, encoder_steps, expected):
    pooler = {"origin": origin, "steps": steps, "distance_moved": moved}
    assert status(pooler, encoder_steps, is_collapsed=False) == expected
    inherited = "stale" if expected == "as released" else expected
    assert status(pooler, encoder_steps, is_collapsed=False, start_status="stale") == inherited
    expected = "collapsed" if steps else expected
    assert status(pooler, encoder_steps, is_collapsed=True) == expected


def test_a_pooler_whose_objective_fell_to_nothing_early_is_stale(model, surroundings):
    tracker = ProvenanceTracker(model, source=None, seed=7)
    built = build_objective(BOW, surroundings, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for weight in (1.0, 0.0, 0.0):
        output = model(IDS, MASK, labels=LABELS, masked_only=True)
        optimizer.zero_grad()
        (output.loss + weight * built(output.pooler_output, BATCH, model)).backward()
        tracker.note_gradients()
        optimizer.step()
    summary = tracker.summary(GEOMETRY, GEOMETRY)
    assert [summary["parts"][part]["steps"] for part in ("pooler", "layer.0")] == [1, 3]
    assert summary["pooler_status"] == "stale"
    assert "a loss reached it in 1 steps, and the encoder moved in 3" in pooler_warning(summary, wants_training=True)


def test_figures_by_loss_are_means_over_probes(model, surroundings):
    model.eval()
    tracker = ProvenanceTracker(model, source=None, seed=7)
    output = model(IDS, MASK, labels=LABELS, masked_only=True)
    bow = build_objective(BOW, surroundings, seed=1)(output.pooler_output, BATCH, model)
    tracker.probe({"mlm": output.loss, "bow": bow})
    tracker.probe({"mlm": output.loss, "bow": 3 * bow})
    summary = tracker.summary(GEOMETRY, GEOMETRY)
    mlm, twice_bow = output.loss.item(), 2 * bow.item()
    assert summary["probes"] == 2
    assert summary["loss_shares"]["bow"] == pytest.approx(twice_bow / (mlm + twice_bow))
    assert sum(summary["loss_shares"].values()) == pytest.approx(1.0)
    for name, loss in (("mlm", output.loss), ("bow", 2 * bow)):
        model.zero_grad()
        loss.backward(retain_graph=True)
        layer = torch.cat([p.grad.flatten() for p in model.bert.encoder.layer[0].parameters()]).norm().item()
        assert summary["parts"]["layer.0"]["gradient_norm_by_loss"][name] == pytest.approx(layer, rel=1e-4)


def test_a_probe_leaves_no_gradient_and_the_graph(model):
    tracker = ProvenanceTracker(model, source=None, seed=7)
    loss = model(IDS, MASK, labels=LABELS, masked_only=True).loss
    tracker.probe({"mlm": loss})
    assert all(p.grad is None for p in model.parameters())
    loss.backward()


@pytest.mark.parametrize(
    ("rank", "cosine", "cls_rank", "steps", "wants_training", "words"),
    [
        (5.0, 0.9, 5.0, 3, True, None),
        (5.0, 0.9, 1.2, 3, True, None),
        (5.0, 0.9, 5.0, 0, False, None),
        (5.0, 0.9, 5.0, 0, True, "the pooler got no gradient"),
        (
            1.4,
            0.9,
            5.0,
            3,
            True,
            "the pooler has collapsed: its outputs hardly tell dev texts apart (effective rank 1.40",
        ),
        (1.4, 0.9, 5.0, 3, True, "the encoder's cls states do (effective rank 5.00, mean cosine 0.5000)"),
        (9.0, 0.99995, 5.0, 3, True, "the pooler has collapsed"),
        (1.4, 0.9, 5.0, 0, False, "nothing trained the pooler, and its outputs hardly tell"),
        (1.4, 0.9, 1.2, 3, True, "the encoder's own cls states hardly tell dev texts apart (effective rank 1.20"),
    ],
)
def test_warning(rank, cosine, cls_rank, steps, wants_training, words):
    geometry, cls = {"effective_rank": rank, "mean_cosine": cosine}, {"effective_rank": cls_rank, "mean_cosine": 0.5}
    summary = {"pooler_geometry": geometry, "cls_geometry": cls, "parts": {"pooler": {"steps": steps}}}
    found = pooler_warning(summary, wants_training)
    assert found is None if words is None else words in found
    assert found is None or cls_rank > 1.5 or "has collapsed" not in found


def test_logged_figures(model, surroundings):
    summary, _ = trained(model, surroundings, BOW)
    figures = pooler_figures(summary)
    assert set(figures) == {
        "pooler/effective_rank",
        "pooler/mean_cosine",
        "pooler/distance_moved",
        "pooler/gradient_norm_from_bow",
        "pooler/loss_share_mlm",
        "pooler/loss_share_bow",
    }
    assert figures["pooler/distance_moved"] == summary["parts"]["pooler"]["distance_moved"]
