"""How the vectors of many texts lie: whether a pooler tells texts apart, in a few numbers.

Shapes: N texts, D vector size, C classes, E texts that are measured, B texts of a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler

TEXTS = 1000
"""Texts measured, at most: more than any vector of BERT base is wide, so that N does not bound the rank."""
ALIGNED_TEXTS = 250
"""Of these, at most so many are read twice more, masked, for the alignment: a mean needs fewer texts than a rank."""
BATCH = 50

SATURATED = 0.99
"""|tanh| above it: the slope there, 1 - tanh^2, is under 0.02, so the unit passes on under 2 % of its gradient."""

COLLAPSED_BELOW = 1.5
"""Effective rank under which outputs count as collapsed. All texts on one vector, or on a line through 0, give 1; at
1.5 with two directions, one holds 86 % of the singular values' sum and 97 % of their squares. Seen on the demo: 27 to
29 after stage 1 of `tiny`, 1.7 after three steps, 1.03 for a BERT of small random weights."""
COLLAPSED_ABOVE = 0.9999
"""Mean cosine above which outputs count as collapsed too: what little noise is left may have a high rank in a wide
pooler (3.9 of 384 units). Poolers that serve well are far below, at up to 0.9: all texts share a part."""


def collapsed(geometry: Mapping[str, float]) -> bool:
    """Whether outputs with this geometry hardly tell texts apart."""
    return geometry["effective_rank"] < COLLAPSED_BELOW or geometry["mean_cosine"] > COLLAPSED_ABOVE


def effective_rank(vectors: Float[Tensor, "N D"]) -> float:
    """The number of directions that the vectors use, from 1 (all parallel) to min(N, D).

    exp of the entropy of the singular values, divided by their sum (Roy and Vetterli 2007); the vectors are not
    centred, as in RankMe (Garrido et al. 2023), which adds a small constant to the shares. 0 for vectors
    that are all zero.
    """
    values = torch.linalg.svdvals(vectors.double())
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def mean_cosine(vectors: Float[Tensor, "N D"]) -> float:
    """Mean cosine over all pairs of different texts, from -1 / (N - 1) to 1; NaN for fewer than two texts."""
    units = functional.normalize(vectors.double(), dim=1)
    count = len(vectors)
    over_all_pairs = units.sum(dim=0).square().sum() - units.square().sum()
    return float(over_all_pairs) / (count * (count - 1)) if count > 1 else float("nan")


def alignment(first: Float[Tensor, "N D"], second: Float[Tensor, "N D"]) -> float:
    """Mean squared distance between the unit vectors of two views of a text, from 0 (equal) to 4.

    Wang and Isola 2020, with the exponent 2 of their code; the views here are two maskings of the same text.
    """
    apart = functional.normalize(first.double(), dim=1) - functional.normalize(second.double(), dim=1)
    return float(apart.square().sum(dim=1).mean())


def uniformity(vectors: Float[Tensor, "N D"]) -> float:
    """log of the mean of exp(-2 |u - v|^2) over pairs of unit vectors, from -8 to 0 (all equal); lower is more even.

    Wang and Isola 2020, with the t = 2 of their code. NaN for fewer than two texts.
    """
    units = functional.normalize(vectors.double(), dim=1)
    squares = units.square().sum(dim=1)
    near = (squares[:, None] + squares - 2 * units @ units.T).mul(-2).exp()  # a product, far quicker than `pdist`
    pairs = len(vectors) * (len(vectors) - 1)
    return float(((near.sum() - near.trace()) / pairs).log()) if pairs else float("nan")


def class_alignment(vectors: Float[Tensor, "N D"], labels: Int64[Tensor, " N"]) -> float:
    """Mean squared distance between the unit vectors of two texts of the same class, from 0 (equal) to 4.

    Wang and Isola 2020, as `alignment`, with another choice of positive pairs: by label, over all pairs of different
    texts of a class. NaN where no class has two.
    """
    units = functional.normalize(vectors.double(), dim=1)
    total, pairs = 0.0, 0
    for label in set(labels.tolist()):
        of_class = units[labels == label]
        # The sum over pairs of |u - v|^2 is n sum |u|^2 - |sum u|^2.
        total += float(len(of_class) * of_class.square().sum() - of_class.sum(dim=0).square().sum())
        pairs += len(of_class) * (len(of_class) - 1) // 2
    return total / pairs if pairs else float("nan")


def principal_components(vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N 2"]:
    """The vectors on their first two principal components, less their mean; 0 where they vary in fewer directions.

    The largest loading of a component, by its absolute value, is positive, so that its sign is no accident.
    """
    centred = vectors.double() - vectors.double().mean(dim=0)
    of_texts = vectors.shape[0] < vectors.shape[1]
    products = centred @ centred.T if of_texts else centred.T @ centred  # the smaller one has the same eigenvalues
    directions = torch.linalg.eigh(products).eigenvectors[:, -2:].flip(1)
    loadings = functional.normalize(centred.T @ directions, dim=0) if of_texts else directions
    largest = loadings.gather(0, loadings.abs().argmax(dim=0, keepdim=True))
    found = centred @ (loadings * largest.sign())
    return functional.pad(found, (0, 2 - found.shape[1])).float()


def vector_geometry(vectors: Float[Tensor, "E D"], labels: Int64[Tensor, " E"]) -> dict[str, float]:
    """Measures of this module of what stage 2 classifies; `alignment` is that of classes."""
    return {**_measured(vectors), "alignment": class_alignment(vectors, labels)}


@dataclass(frozen=True)
class _Classified:
    """Vectors and labels, which are equal to others of the same content."""

    content: str
    vectors: Tensor = field(compare=False)
    labels: Tensor = field(compare=False)


def geometry_and_components(
    vectors: Float[Tensor, "E D"], labels: Int64[Tensor, " E"]
) -> tuple[dict[str, float], Float[Tensor, "E 2"]]:
    """`vector_geometry` and `principal_components`, found once for the jobs of a sweep that differ in labels drawn."""
    content = sha256(vectors.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    geometry, components = _geometry_and_components(_Classified(content, vectors, labels))
    return dict(geometry), components


@lru_cache(maxsize=4)
def _geometry_and_components(of: _Classified) -> tuple[dict[str, float], Tensor]:
    return vector_geometry(of.vectors, of.labels), principal_components(of.vectors)


def saturated_share(vectors: Float[Tensor, "N D"]) -> float:
    """Share of tanh units, over all texts, that lie beyond `SATURATED`, from 0 to 1."""
    return float((vectors.abs() > SATURATED).double().mean())


def dev_geometries(
    model: MaskedLMWithPooler, dev: Dataset[Batch], lengths: Int64[ndarray, " N"]
) -> tuple[dict[str, float], dict[str, float]]:
    """The measures of this module on dev texts, in eval mode: of the pooler's outputs, and of the raw `cls` vectors.

    The latter, without `saturated_share`, say what the pooler had to work with.

    At most `TEXTS` texts are read unmasked, and at most `ALIGNED_TEXTS` twice masked: by the masks that dev has in
    epochs 0 and 1. This takes no longer than one and a half passes over dev.

    Args:
        model: left in the mode that it was in.
        dev: stage 1's batches of the dev split.
        lengths: (N,) of the dev texts, in word pieces.

    Raises:
        FloatingPointError: an output is not finite.
    """
    examples, few = (_by_length(spread(len(lengths), most), lengths) for most in (TEXTS, ALIGNED_TEXTS))

    def read(chosen: ndarray, ids: str, epoch: int) -> list[Tensor]:
        outputs = [_outputs(model, batch, ids) for batch in _batches(dev, chosen, epoch)]
        return [torch.cat(parts) for parts in zip(*outputs, strict=True)]

    was_training = model.training
    model.eval()
    with torch.inference_mode():
        vectors = read(examples, "original_ids", 0)
        views = [read(few, "input_ids", epoch) for epoch in (0, 1)]
    model.train(was_training)
    if not vectors[0].isfinite().all():
        raise FloatingPointError(
            "training has diverged: the pooler's outputs on dev texts are not finite (try a lower learning rate)"
        )
    pooler, cls = (
        {**_measured(all_texts), "alignment": alignment(first, second)}
        for all_texts, first, second in zip(vectors, *views, strict=True)
    )
    return {**pooler, "saturated_share": saturated_share(vectors[0])}, cls


def _measured(vectors: Float[Tensor, "E D"]) -> dict[str, float]:
    measures: dict[str, Callable[[Tensor], float]] = {
        "effective_rank": effective_rank,
        "mean_cosine": mean_cosine,
        "uniformity": uniformity,
    }
    return {"texts": float(len(vectors)), **{name: measure(vectors) for name, measure in measures.items()}}


def spread(count: int, most: int) -> Int64[ndarray, " E"]:
    """At most `most` of `count` examples, evenly spread (a split may be sorted by label), in their order."""
    examples: ndarray = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
    return examples


def _by_length(examples: Int64[ndarray, " E"], lengths: Int64[ndarray, " N"]) -> Int64[ndarray, " E"]:
    ordered: ndarray = examples[np.argsort(lengths[examples], kind="stable")]
    return ordered


def _batches(dev: Dataset[Batch], examples: Int64[ndarray, " E"], epoch: int) -> list[Batch]:
    chunks = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    return [dev[[(epoch, int(example)) for example in chunk]] for chunk in chunks]


def _outputs(model: MaskedLMWithPooler, batch: Batch, ids: str) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """The pooler's outputs, and the raw `cls` vectors."""
    where = model.device
    states = model.body(batch[ids].to(where), attention_mask=batch["attention_mask"].to(where)).last_hidden_state
    return model.pooling_layer(states).float().cpu(), states[:, 0].float().cpu()
