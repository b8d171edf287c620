"""Where each part of a stage-1 model came from, which losses reached it, and how far it moved."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from poolwise import ranks
from poolwise.encoder import MaskedLMWithPooler
from poolwise.families import Family
from poolwise.geometry import collapsed

POOLER = "pooler"
AS_RELEASED = "as released"


def part_of(parameter_name: str, family: Family) -> str:
    """The part that a parameter belongs to: `embeddings`, `layer.0` and so on, `pooler` or `mlm_head`."""
    if family.in_mlm_head(parameter_name):
        return "mlm_head"
    words = parameter_name.split(".")
    if POOLER in words[:2]:  # in the body, or beside it
        return POOLER
    layer = re.search(r"\.layers?\.(\d+)\.", parameter_name)
    return f"layer.{layer[1]}" if layer else words[1]


class ProvenanceTracker:
    """Watches the training of one model; nothing it does changes a number.

    The word embeddings, tied to the MLM head's output layer, are counted under `embeddings`.

    Attributes:
        parts: the model's parameters by part, each once.
        step_norms: of the gradient of each part that had one in the last step, before clipping.
    """

    def __init__(
        self, model: MaskedLMWithPooler, source: str | None, seed: int, start_status: str = AS_RELEASED
    ) -> None:
        """Take the model before its first step.

        `source` names the file that the weights came from, with its hash; None for a model from scratch.
        `seed` drew what is fresh. `start_status` is that of a pooler that was kept, as an earlier stage 1 noted it.
        """
        self._start_status = start_status
        self.parts: dict[str, list[nn.Parameter]] = {}
        missing_parts = {part_of(key, model.family) for key in model.loading_info.get("missing_keys", ())}
        self._origins: dict[str, str] = {}
        for name, parameter in model.named_parameters():
            part = part_of(name, model.family)
            self.parts.setdefault(part, []).append(parameter)
            fresh = source is None or part in missing_parts
            self._origins[part] = f"fresh (seed {seed})" if fresh else str(source)
        if model.pooler_origin != "kept":
            self._origins[POOLER] = f"{model.pooler_origin} (seed {seed})"
        self._start = {part: [p.detach().clone() for p in group] for part, group in self.parts.items()}
        self._probes = 0
        self._loss_sums: defaultdict[str, float] = defaultdict(float)
        self.step_norms: dict[str, Tensor] = {}
        self._norm_sum = {part: torch.zeros(()) for part in self.parts}
        self._steps_reached = {part: torch.zeros(()) for part in self.parts}
        self._probed_norms: dict[str, defaultdict[str, float]] = {part: defaultdict(float) for part in self.parts}

    def settle_start(self) -> None:
        """Measure distances in the precision and on the device that the weights now have."""
        for part, group in self.parts.items():
            self._start[part] = [then.to(now) for then, now in zip(self._start[part], group, strict=True)]

    def progress_state(self) -> dict[str, Any]:
        """What was noted so far: tensors and plain data."""
        return {
            "probes": self._probes,
            "loss_sums": dict(self._loss_sums),
            "norm_sum": self._norm_sum,
            "steps_reached": self._steps_reached,
            "probed_norms": {part: dict(norms) for part, norms in self._probed_norms.items()},
        }

    def load_progress_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `progress_state` gave."""
        self._probes, self._norm_sum, self._steps_reached = (
            state[name] for name in ("probes", "norm_sum", "steps_reached")
        )
        self._loss_sums.update(state["loss_sums"])
        for part, norms in state["probed_norms"].items():
            self._probed_norms[part].update(norms)

    def probe(self, losses: Mapping[str, Tensor]) -> None:
        """Note each loss, weighted, and the gradient norm that it alone sends to each part; keeps the graph.

        Costs one backward pass for each loss.
        """
        self._probes += 1
        reachable = [parameter for group in self.parts.values() for parameter in group if parameter.requires_grad]
        for loss_name, loss in losses.items():
            if not loss.requires_grad:
                continue
            self._loss_sums[loss_name] += float(ranks.mean(loss.detach()))
            for part, norm in self._norms_of(loss, reachable).items():
                if norm.isfinite():
                    self._probed_norms[part][loss_name] += float(norm)

    def _norms_of(self, loss: Tensor, reachable: Sequence[nn.Parameter]) -> dict[str, Tensor]:
        """Gradient norms of a loss alone, by part; the gradients, as large as the model, are let go."""
        gradients = torch.autograd.grad(loss, reachable, retain_graph=True, allow_unused=True)
        found = {id(p): ranks.mean(g) for p, g in zip(reachable, gradients, strict=True) if g is not None}
        return {
            part: gradient_norm([found[id(parameter)] for parameter in group if id(parameter) in found])
            for part, group in self.parts.items()
        }

    def note_gradients(self) -> Tensor:
        """Add up the gradient norms of this step, before clipping; returns the pooler's (0 without one)."""
        self.step_norms = {}
        for part, group in self.parts.items():
            gradients = [p.grad for p in group if p.grad is not None]
            norm = gradient_norm(gradients)
            if gradients:
                self.step_norms[part] = norm
            # A gradient scaler's first steps overflow and are skipped: they count for nothing.
            counted = torch.where(norm.isfinite(), norm, torch.zeros_like(norm))
            self._norm_sum[part] = self._norm_sum[part].to(norm.device) + counted
            self._steps_reached[part] = self._steps_reached[part].to(norm.device) + (counted > 0)
        return self.step_norms.get(POOLER, torch.zeros(()))

    def summary(self, geometry: Mapping[str, float], cls_geometry: Mapping[str, float]) -> dict[str, Any]:
        """What is known after training; `geometry` is that of the pooler's outputs then, `cls_geometry` of raw `cls`.

        `pooler_status`; `pooler_geometry`; `cls_geometry`; `loss_shares`: of each weighted loss in their sum; and for
        each part its origin, the losses that reached it, gradient norms (L2), steps and the distance moved (L2). What
        is told by loss is a mean over the probes.
        """
        parts = {part: self._summary_of(part) for part in self.parts}
        total = sum(self._loss_sums.values())
        return {
            "pooler_status": status(parts[POOLER], encoder_steps(parts), collapsed(geometry), self._start_status),
            "pooler_geometry": dict(geometry),
            "cls_geometry": dict(cls_geometry),
            "loss_shares": {name: value / total if total else 0.0 for name, value in self._loss_sums.items()},
            "probes": self._probes,
            "parts": parts,
        }

    def _summary_of(self, part: str) -> dict[str, Any]:
        pairs = zip(self.parts[part], self._start[part], strict=True)
        distance = gradient_norm([now.detach().to(then.device) - then for now, then in pairs])
        start = gradient_norm(self._start[part])
        steps = int(self._steps_reached[part])
        by_loss = {name: norm / self._probes for name, norm in self._probed_norms[part].items() if norm > 0}
        return {
            "origin": self._origins[part],
            "losses": sorted(by_loss),
            "gradient_norm_by_loss": by_loss,
            "mean_gradient_norm": float(self._norm_sum[part]) / max(steps, 1),
            "steps": steps,
            "distance_moved": float(distance),
            "relative_distance_moved": float(distance / start) if start > 0 else None,
        }


def encoder_steps(parts: Mapping[str, Mapping[str, Any]]) -> int:
    """In how many steps a loss reached layers of the encoder; 0 where none of them moved."""
    layers = [part for name, part in parts.items() if name.startswith("layer.") and part["distance_moved"] > 0]
    return max((layer["steps"] for layer in layers), default=0)


def is_outdated(pooler: Mapping[str, Any], encoder_steps: int) -> bool:
    """Whether a loss reached the pooler in fewer than half of the steps in which the encoder's layers moved."""
    return bool(2 * pooler["steps"] < encoder_steps)


def status(pooler: Mapping[str, Any], encoder_steps: int, is_collapsed: bool, start_status: str = AS_RELEASED) -> str:
    """`trained` if a loss reached the pooler, `stale` if that `is_outdated`, `collapsed` if training made it useless.

    One that no loss reached is `random` if it is fresh; else `stale` if the encoder moved, and what it was
    (`start_status`) if it did not.
    """
    if pooler["steps"] > 0 and pooler["distance_moved"] > 0:
        if is_collapsed:
            return "collapsed"
        return "stale" if is_outdated(pooler, encoder_steps) else "trained"
    if pooler["origin"].startswith("fresh"):
        return "random"
    return "stale" if encoder_steps else start_status


def pooler_warning(summary: Mapping[str, Any], wants_training: bool) -> str | None:
    """What is wrong with the pooler of a `ProvenanceTracker.summary`, in one sentence; None where nothing is.

    `wants_training`: whether the objective is one that trains the pooler.
    """
    geometry, cls_geometry = summary["pooler_geometry"], summary["cls_geometry"]
    pooler, steps = summary["parts"][POOLER], encoder_steps(summary["parts"])
    if collapsed(geometry) and collapsed(cls_geometry):
        return (
            f"the encoder's own cls states hardly tell dev texts apart ({spread_in_words(cls_geometry)}), so neither "
            f"do the pooler's outputs ({spread_in_words(geometry)})"
        )
    if collapsed(geometry):
        lead = "the pooler has collapsed: its" if pooler["steps"] else "nothing trained the pooler, and its"
        return (
            f"{lead} outputs hardly tell dev texts apart ({spread_in_words(geometry)}); the encoder's cls states do "
            f"({spread_in_words(cls_geometry)})"
        )
    if wants_training and pooler["steps"] == 0:
        return "the pooler got no gradient: it is as it was before training"
    if wants_training and is_outdated(pooler, steps):
        return (
            f"the pooler is stale: a loss reached it in {pooler['steps']:,} steps, and the encoder moved in {steps:,}; "
            "a weight that falls later, or not, mends that"
        )
    return None


def spread_in_words(geometry: Mapping[str, float]) -> str:
    """How far apart vectors lie, in the two figures that say whether they collapsed."""
    return f"effective rank {geometry['effective_rank']:.2f}, mean cosine {geometry['mean_cosine']:.4f}"


def pooler_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a `ProvenanceTracker.summary` that are logged, under `pooler/`."""
    pooler = summary["parts"][POOLER]
    figures = {
        **summary["pooler_geometry"],
        "distance_moved": pooler["distance_moved"],
        **{f"gradient_norm_from_{name}": norm for name, norm in pooler["gradient_norm_by_loss"].items()},
        **{f"loss_share_{name}": share for name, share in summary["loss_shares"].items()},
    }
    return {f"pooler/{name}": float(value) for name, value in figures.items()}


def gradient_norm(tensors: list[Tensor]) -> Tensor:
    """L2 norm over all elements of all tensors, as a scalar tensor; 0 for an empty list."""
    if not tensors:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(tensors)
