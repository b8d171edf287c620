"""A representation of token 0 as a dense layer and a tanh: what the classifiers of transformers have before their head.

Shapes: B texts, T tokens, H hidden size, D vector size, C classes.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from poolwise.families import family_of
from poolwise.settings import UserError
from poolwise.trained import TrainedClassifier

SHRINKING = 2.0**-10
"""tanh(x) is x up to x^3 / 3, so h shrunk so is kept but for (h / 1024)^2 / 3; a power of two is undone exactly."""


@dataclass(frozen=True)
class DenseForm:
    """Logits as W2 tanh(W1 h[0] + b1) + b2.

    Attributes:
        dense_weight: W1, (H, H).
        dense_bias: b1, (H,).
        head_weight: W2, (C, H).
        head_bias: b2, (C,).
    """

    dense_weight: Tensor
    dense_bias: Tensor
    head_weight: Tensor
    head_bias: Tensor


def calibrated_head(trained: TrainedClassifier) -> tuple[Tensor, Tensor]:
    """The head's weight (C, D) and bias (C,), divided by the temperature, so that a plain softmax is calibrated."""
    head, temperature = trained.classifier.head, trained.notes.temperature
    return head.weight.detach().cpu() / temperature, head.bias.detach().cpu() / temperature


def dense_form(trained: TrainedClassifier) -> DenseForm:
    """The same logits through a dense layer with tanh; of `cls`, which has none, through one that hardly bends.

    Raises:
        UserError: the representation reads more than token 0's last state.
    """
    name, classifier = trained.notes.representation["name"], trained.classifier
    weight, bias = calibrated_head(trained)
    if name == "cls":
        size = weight.shape[1]
        return DenseForm(torch.eye(size) * SHRINKING, torch.zeros(size), weight / SHRINKING, bias)
    if name == "pooler":
        assert classifier.pooler is not None
        dense = classifier.pooler.dense
    elif name == "cls_linear":
        dense = classifier.representation.dense
    else:
        raise UserError(
            f"repr={name}: the classifiers of transformers read token 0 alone, so this form is there for cls, pooler "
            "and cls_linear; allowed for others: --to onnx, and --to sentence-transformers for vectors"
        )
    assert isinstance(dense, nn.Linear)
    return DenseForm(dense.weight.detach().cpu(), dense.bias.detach().cpu(), weight, bias)


def body_up_to_layer(trained: TrainedClassifier) -> Any:
    """A copy of the encoder, without the layers above the one that stands for the last.

    Raises:
        UserError: the family has a norm after its last layer, which lower layers do not pass.
    """
    classifier = trained.classifier
    body: Any = copy.deepcopy(classifier.encoder)
    body.cpu()
    family, last = family_of(body.config), classifier.representation.layer
    if last == classifier.representation.layers:
        return body
    if family.layers == "layers":
        raise UserError(f"repr={trained.name}: {family.name} passes a norm after its last layer alone")
    parent, _, name = family.layers.rpartition(".")
    setattr(body.get_submodule(parent), name, body.get_submodule(family.layers)[:last])
    body.config.num_hidden_layers = last
    return body
