"""The states of a frozen encoder, read once a text and kept on disk for all representations and layers.

Shapes: B texts, R their windows, W windows of all texts of a split, T tokens, L layers, H hidden size.
"""

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from poolwise.data.batching import Batch, Request, batches_to_read
from poolwise.data.tokens import TokenisedTexts
from poolwise.durable import BrokenFileError, draft_beside, flush, is_found_whole, seal, take_room
from poolwise.machine import check_room
from poolwise.representations import Pooler, Representation, StoredStates, TokenStates, mean_over_windows

log = logging.getLogger(__name__)

CODE_VERSION = 2
"""Raised by hand when this module's output changes for the same input; part of every cache key."""
KINDS = ("first", "mean", "max")
"""What is kept of a layer: see `StoredStates`."""
MANY = 4096
"""Texts whose vectors are formed at a time."""


class StatesOnDisk:
    """What is kept of the states of texts, as memory maps.

    Attributes:
        texts: of one split.
        kept: by kind, (L + 1, W, H) in fp32: of the embeddings and of each layer.
    """

    def __init__(self, folder: Path, texts: TokenisedTexts) -> None:
        """Open what `encode` wrote of these texts.

        Raises:
            OSError, ValueError: there is none, or it is broken.
        """
        if folder.exists() and not all(is_found_whole(folder / f"{kind}.npy") for kind in KINDS):
            raise BrokenFileError("its content does not fit its checksums")
        self.texts = texts
        self.kept: dict[str, Float[ndarray, "layers W H"]] = {
            kind: np.load(folder / f"{kind}.npy", mmap_mode="r", allow_pickle=False) for kind in KINDS
        }

    def of(self, examples: Int64[ndarray, " B"], every_layer: bool) -> dict[str, Float[Tensor, "layers R H"]]:
        """By kind, what is kept of the windows of these texts: of every layer, or of the last alone."""
        layers = slice(None) if every_layer else slice(-1, None)
        rows, _ = self.texts.windows_of(examples)
        return {kind: torch.from_numpy(np.ascontiguousarray(kept[layers, rows])) for kind, kept in self.kept.items()}

    def layers(self, examples: Int64[ndarray, " B"]) -> list[StoredStates]:
        """The embeddings and each layer of the windows of these texts, of which is read what is asked for."""
        rows, _ = self.texts.windows_of(examples)

        def read(layer: int, kind: str) -> Float[Tensor, "R H"]:
            return torch.from_numpy(self.kept[kind][layer, rows])

        return [StoredStates(partial(read, layer)) for layer in range(len(self.kept["first"]))]


def layers_of(kept: Mapping[str, Tensor]) -> list[StoredStates]:
    """Layers as a representation reads them, from tensors (layers, R, H) by kind."""
    layers = zip(*(kept[kind] for kind in KINDS), strict=True)
    return [StoredStates(dict(zip(KINDS, states, strict=True)).__getitem__) for states in layers]


def states_in(folder: Path, texts: TokenisedTexts) -> StatesOnDisk | None:
    """The states of these texts in `folder`; None where they are not there, or not whole."""
    try:
        return StatesOnDisk(folder, texts)
    except (OSError, ValueError, EOFError):
        return None


def stored_states(encoder: Any, texts: TokenisedTexts, folder: Path, device: str) -> StatesOnDisk:
    """The states of all texts in their order: those in `folder`, or computed and kept there.

    Args:
        encoder: a body; left in eval mode, where it was.
        texts: of one split.
        folder: of this encoder and these token ids; it appears whole or not at all.
        device: where to compute.

    Raises:
        UserError: the disk has no room.
    """
    try:
        return StatesOnDisk(folder, texts)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s: broken (%s), and made anew", folder, error)
        shutil.rmtree(folder, ignore_errors=True)  # another process may do so, too
    layers, size = encoder.config.num_hidden_layers + 1, encoder.config.hidden_size
    check_room(folder, len(KINDS) * layers * len(texts.windows) * size * 4)
    draft = draft_beside(folder)
    draft.mkdir(parents=True)
    try:
        encode(encoder, texts.windows, draft, device)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # else another run was as quick
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return StatesOnDisk(folder, texts)


@torch.inference_mode()
def encode(encoder: Any, texts: TokenisedTexts, folder: Path, device: str) -> None:
    """Read each text once, in fp32 and without dropout, and write what is kept of all layers into `folder`."""
    before = encoder.device
    encoder.to(device).eval()
    shape = (encoder.config.num_hidden_layers + 1, len(texts), encoder.config.hidden_size)
    files = {
        kind: np.lib.format.open_memmap(folder / f"{kind}.npy", mode="w+", dtype=np.float32, shape=shape)
        for kind in KINDS
    }
    for kind in KINDS:
        take_room(folder / f"{kind}.npy")
    for examples in batches_to_read(texts.lengths, encoder.config.hidden_size, device):
        token_ids, present = texts.padded(examples)
        mask = torch.from_numpy(present.astype(np.int64)).to(device)
        output = encoder(torch.from_numpy(token_ids).to(device), attention_mask=mask, output_hidden_states=True)
        for layer, states in enumerate(output.hidden_states):
            of_tokens = TokenStates(states.float(), mask)
            for kind, file in files.items():
                file[layer, examples] = getattr(of_tokens, kind).cpu().numpy()
    encoder.to(before)
    for kind, file in files.items():
        file.flush()
        seal(folder / f"{kind}.npy")
        flush(folder / f"{kind}.npy")


@torch.inference_mode()
def vectors_of(
    representation: Representation, pooler: Pooler | None, states: StatesOnDisk, examples: Int64[ndarray, " n"]
) -> Float[ndarray, "n D"]:
    """One vector for each of these texts, by a representation that has nothing to train."""
    found = []
    for start in range(0, len(examples), MANY):
        some = examples[start : start + MANY]
        layers = states.layers(some)
        vectors = representation.of_layers(layers if representation.needs_all_states else layers[-1:], pooler)
        found.append(mean_over_windows(vectors, states.texts.windows_of(some)[1].tolist()).numpy())
    return np.concatenate(found)


class BatchesWithLayers(Dataset[Batch]):
    """Other batches, with what is kept of their texts' layers beside them: `first`, `mean`, `max`, (layers, R, H)."""

    def __init__(
        self, batches: Dataset[Batch], states: StatesOnDisk, examples: Int64[ndarray, " N"], every_layer: bool
    ) -> None:
        """Take the parts; text i of `batches` is text `examples[i]` of `states`."""
        self.batches = batches
        self.states = states
        self.examples = examples
        self.every_layer = every_layer

    def __getitem__(self, requests: list[Request]) -> Batch:
        chosen = self.examples[[example for _, example in requests]]
        return {**self.batches[requests], **self.states.of(chosen, self.every_layer)}
