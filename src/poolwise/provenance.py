"""Where each part of a stage-1 model came from, which losses reached it, and how far it moved."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from poolwise.encoder import BertForMaskedLMWithPooler

POOLER = "pooler"


def part_of(parameter_name: str) -> str:
    """The part that a parameter belongs to: `embeddings`, `layer.0` and so on, `pooler` or `mlm_head`."""
    words = parameter_name.split(".")
    if words[0] == "cls":
        return "mlm_head"
    if words[1] == "encoder":
        return f"layer.{words[3]}"
    return words[1]


class ProvenanceTracker:
    """Watches the training of one model; nothing it does changes a number.

    The word embeddings, tied to the MLM head's output layer, are counted under `embeddings`.
    """

    def __init__(self, model: BertForMaskedLMWithPooler, source: str | None, seed: int) -> None:
        """Take the model before its first step.

        `source` names the file that the weights came from, with its hash; None for a model from scratch.
        `seed` drew what is fresh.
        """
        self.parts: dict[str, list[nn.Parameter]] = {}
        missing_parts = {part_of(key) for key in model.loading_info.get("missing_keys", ())}
        self._origins: dict[str, str] = {}
        for name, parameter in model.named_parameters():
            part = part_of(name)
            self.parts.setdefault(part, []).append(parameter)
            fresh = source is None or part in missing_parts
            self._origins[part] = f"fresh (seed {seed})" if fresh else str(source)
        if model.pooler_origin != "kept":
            self._origins[POOLER] = f"{model.pooler_origin} (seed {seed})"
        self.remember_start()
        self._norm_sum = {part: torch.zeros(()) for part in self.parts}
        self._steps_reached = {part: torch.zeros(()) for part in self.parts}
        self._losses: dict[str, dict[str, float]] = {part: {} for part in self.parts}

    def remember_start(self) -> None:
        """Measure distances from where the weights are now."""
        self._start = {part: [p.detach().clone() for p in group] for part, group in self.parts.items()}

    def probe(self, losses: Mapping[str, Tensor]) -> None:
        """Note the gradient norm that each loss, weighted and by itself, sends to each part; keeps the graph."""
        for loss_name, loss in losses.items():
            if not loss.requires_grad:
                continue
            for part, group in self.parts.items():
                gradients = torch.autograd.grad(loss, group, retain_graph=True, allow_unused=True)
                norm = gradient_norm([g for g in gradients if g is not None])
                if norm > 0:
                    self._losses[part][loss_name] = float(norm)

    def note_gradients(self) -> Tensor:
        """Add up the gradient norms of this step, before clipping; returns the pooler's (0 without one)."""
        for part, group in self.parts.items():
            norm = gradient_norm([p.grad for p in group if p.grad is not None])
            # A gradient scaler's first steps overflow and are skipped: they count for nothing.
            counted = torch.where(norm.isfinite(), norm, torch.zeros_like(norm))
            self._norm_sum[part] = self._norm_sum[part].to(norm.device) + counted
            self._steps_reached[part] = self._steps_reached[part].to(norm.device) + (counted > 0)
            if part == POOLER:
                pooler_norm = norm
        return pooler_norm

    def summary(self) -> dict[str, Any]:
        """`pooler_status` and, for each part: origin, losses, gradient norms (L2), steps, distance moved (L2)."""
        parts = {part: self._summary_of(part) for part in self.parts}
        moved = any(parts[part]["distance_moved"] > 0 for part in parts if part.startswith("layer."))
        return {"pooler_status": status(parts[POOLER], moved), "parts": parts}

    def _summary_of(self, part: str) -> dict[str, Any]:
        pairs = zip(self.parts[part], self._start[part], strict=True)
        distance = gradient_norm([now.detach().to(then.device) - then for now, then in pairs])
        start = gradient_norm(self._start[part])
        steps = int(self._steps_reached[part])
        return {
            "origin": self._origins[part],
            "losses": sorted(self._losses[part]),
            "first_gradient_norm_by_loss": self._losses[part],
            "mean_gradient_norm": float(self._norm_sum[part]) / max(steps, 1),
            "steps": steps,
            "distance_moved": float(distance),
            "relative_distance_moved": float(distance / start) if start > 0 else None,
        }


def status(pooler: Mapping[str, Any], encoder_moved: bool) -> str:
    """`trained` if a loss reached the pooler; else `random` if it is fresh, `stale` if the encoder moved.

    A kept pooler under an encoder that did not move is `as released`.
    """
    if pooler["steps"] > 0 and pooler["distance_moved"] > 0:
        return "trained"
    if pooler["origin"].startswith("fresh"):
        return "random"
    return "stale" if encoder_moved else "as released"


def gradient_norm(tensors: list[Tensor]) -> Tensor:
    """L2 norm over all elements of all tensors, as a scalar tensor; 0 for an empty list."""
    if not tensors:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(tensors)
