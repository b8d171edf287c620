"""A folder that `SentenceTransformer(FOLDER)` loads, which gives the same vectors.

Shapes: H hidden size, D vector size, K the layer that stands for the last.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from poolwise.exports.dense import body_up_to_layer
from poolwise.settings import UserError
from poolwise.trained import TrainedClassifier

POOLING: dict[str, Any] = {
    **dict.fromkeys(("cls", "pooler", "cls_linear", "layer_mix", "cls_scaled"), "cls"),
    **dict.fromkeys(("mean", "mean_first_last", "mean_last4", "mean_scaled"), "mean"),
    "max": "max",
    "cls_mean": ("cls", "mean"),
}
"""What `Pooling` of sentence-transformers does for a representation; `cls_last4` takes several: `_last_four`."""


def write(trained: TrainedClassifier, folder: Path) -> None:
    """Write the encoder, and a folder for each module after it.

    Raises:
        UserError: sentence-transformers is not installed, or has no module for this representation.
    """
    name = trained.notes.representation["name"]
    if name == "attention":
        raise UserError(
            f"repr={name}: sentence-transformers has no module that weighs tokens by their states, as "
            f"{trained.notes.formula} does; allowed for this one: --to onnx"
        )
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError as error:
        raise UserError("--to sentence-transformers needs it: pip install 'poolwise[export]'") from error
    body = body_up_to_layer(trained)
    size = body.config.hidden_size
    weights = layer_weights(trained)
    body.config.output_hidden_states = trained.classifier.representation.reads_lower_layers
    with TemporaryDirectory() as encoder:
        body.save_pretrained(encoder)
        trained.tokenizer.save_pretrained(encoder)
        modules: list[nn.Module] = [Transformer(encoder, max_seq_length=trained.notes.max_length)]
    if name == "cls_last4":
        modules += _last_four(trained, size)
    else:
        modules += [_mixed(weights, size)] if weights is not None else []
        modules += [Pooling(size, pooling_mode=POOLING[name]), *_after_pooling(trained)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


def layer_weights(trained: TrainedClassifier) -> Tensor | None:
    """How much each state counts, (K + 1,), of embeddings and layers; None where the last one alone does."""
    representation: Any = trained.classifier.representation
    name = trained.notes.representation["name"]
    weights = torch.zeros(representation.layer + 1)
    if name == "mean_first_last":
        weights[[1, -1]] += 0.5
    elif name == "mean_last4":
        weights[-4:] = 0.25
    elif name == "layer_mix":
        weights = representation.weights.detach().cpu().softmax(dim=0)
    else:
        return None
    return weights


def _last_four(trained: TrainedClassifier, size: int) -> list[nn.Module]:
    """Modules for token 0's states of layers K - 3 to K, side by side.

    `Pooling` puts two vectors side by side in one way alone: what lies under `cls_token_embeddings`, in place of token
    0's state, and one other. So each layer's goes there after the ones before it, and from the second on token 0's is
    read as the mean of the tokens that are [CLS]. One that a text itself holds counts, too, as the card says.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, WordWeights

    layer, encoder = trained.classifier.representation.layer, trained.classifier.encoder
    assert encoder is not None
    pieces = [str(number) for number in range(encoder.config.vocab_size)]
    only_cls = {str(trained.tokenizer.cls_token_id): 1.0}
    modules: list[nn.Module] = []
    for place, state in enumerate(range(layer - 3, layer + 1), 1):
        modules.append(_mixed(functional.one_hot(torch.tensor(state), layer + 1).float(), size))
        if place == 1:
            modules.append(Pooling(size, pooling_mode="cls"))
        else:
            modules += [WordWeights(pieces, only_cls, 0.0), Pooling(size, pooling_mode=("cls", "mean"))]
        if place < 4:
            kept = Dense(
                place * size,
                place * size,
                bias=False,
                activation_function=None,
                module_output_name="cls_token_embeddings",
            )
            kept.linear.load_state_dict({"weight": torch.eye(place * size)})
            modules.append(kept)
    return modules


def _mixed(weights: Tensor, size: int) -> nn.Module:
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    return WeightedLayerPooling(
        size, num_hidden_layers=len(weights) - 1, layer_start=0, layer_weights=nn.Parameter(weights)
    )


def _after_pooling(trained: TrainedClassifier) -> list[nn.Module]:
    """A dense layer for what is done with the pooled vector: the pooler's, or factors."""
    from sentence_transformers.sentence_transformer.modules import Dense

    name = trained.notes.representation["name"]
    representation: Any = trained.classifier.representation
    pooler: Any = trained.classifier.pooler
    size = representation.dimension
    if name in ("pooler", "cls_linear"):
        dense = pooler.dense if name == "pooler" else representation.dense
        layer = Dense(size, size, activation_function=nn.Tanh())
        layer.linear.load_state_dict(dense.state_dict())
        return [layer]
    factors = {
        "layer_mix": lambda: representation.scale.expand(size),
        "cls_scaled": lambda: representation.factors[representation.slice_of_unit],
        "mean_scaled": lambda: representation.factors,
    }.get(name)
    if factors is None:
        return []
    layer = Dense(size, size, bias=False, activation_function=None)
    layer.linear.load_state_dict({"weight": torch.diag(factors().detach().cpu())})
    return [layer]
