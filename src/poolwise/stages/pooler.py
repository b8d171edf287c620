"""Stage 1 with the encoder frozen: only the pooler, and what the objective may hold, are trained.

Where the objective reads the same unmasked rows in each epoch, the last layer's state of [CLS] is computed once a row,
so that a step costs a dense layer and the objective; else each step has a pass of the encoder, forward alone.
Shapes: B texts, N examples, R rows of a batch, T tokens, H hidden size.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from poolwise import ranks
from poolwise.data.arrangement import Arrangement, halves, single
from poolwise.data.batching import Batch, Request, batches_to_read
from poolwise.data.tokens import TokenisedTexts
from poolwise.durable import is_kept, sealed_draft_of
from poolwise.encoder import MaskedLMWithPooler
from poolwise.machine import check_room
from poolwise.stages.mlm import MaskedLanguageModelling, loss_figures
from poolwise.words import counted

log = logging.getLogger(__name__)

ROWS = "rows"


class PoolerTraining(MaskedLanguageModelling):
    """Trains the pooler of a frozen `MaskedLMWithPooler` by the objective alone.

    What is measured and noted is as in `MaskedLanguageModelling`, less the figures of MLM.
    """

    @property
    def leaves_out_padding(self) -> bool:
        """As in `Stage`: no pass here is given a packing."""
        return False

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective's losses, unweighted, from the pooler's outputs and what else it reads of the batch.

        These are of stored `cls_states` (R, H) if the batch has them, else of a pass of the encoder.
        """
        arranged = batch.get("arranged", batch)
        states = batch.get("cls_states")
        pooled = self.pooled(arranged) if states is None else self.model.pooling_layer(states.unsqueeze(1))
        return self.objective.losses(pooled, arranged, self.model)

    def pooled(self, batch: Batch) -> Float[Tensor, "R H"]:
        """The pooler's outputs, in a pass of the frozen encoder without dropout, as stage 2 will read it.

        `views` needs no dropout, as its two rows differ in their masks. Pairs of segments are read unmasked: masks are
        for MLM, and there is none. The passes that an objective makes itself have dropout (`simcse` needs it).
        No graph of the encoder is kept, since nothing in it is trained.
        """
        ids = batch["input_ids" if self.objective.needs.arrangement == "views" else "original_ids"]
        was_training = self.model.body.training
        self.model.body.eval()
        vectors = self.model.sentence_vectors(ids, batch["attention_mask"], batch.get("token_type_ids"))
        self.model.body.train(was_training)
        return vectors

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weight x loss of each objective, at the weights of this share of training."""
        losses = self.of_whole(self.losses(batch), batch)
        weighted = self.weighted(losses)
        self.probe(weighted)
        if self.logs_this_step:
            self.log_training(loss_figures({name: ranks.mean(loss.detach()) for name, loss in losses.items()}))
        return self.as_part(torch.stack(list(weighted.values())).sum(), ROWS, batch)

    def counts(self, batch: Batch) -> dict[str, Any]:
        """All rows, and those that each objective is a mean over."""
        return {ROWS: len(batch["labels"]), **self.objective.counts(batch)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the objectives, by the rows that they are means over."""
        self.note_dev_objectives(self.losses(batch), batch.get("arranged", batch))

    def on_validation_epoch_end(self) -> None:
        """Log the objectives."""
        self.log_dev_objectives()


def same_rows_each_epoch(arrangement: Arrangement | None) -> bool:
    """Whether an objective that arranges texts so reads the same unmasked rows in each epoch."""
    return arrangement in (None, "single", "halves")


class BatchesWithStates(Dataset[Batch]):
    """Other batches, with `cls_states` (R, H) of their rows, as the objective arranges them, beside them."""

    def __init__(self, batches: Dataset[Batch], states: Float[Tensor, "K N H"]) -> None:
        self.batches = batches
        self.states = states

    def __getitem__(self, requests: list[Request]) -> Batch:
        examples = torch.tensor([example for _, example in requests])
        return {**self.batches[requests], "cls_states": self.states[:, examples].flatten(0, 1)}


def kept_cls_states(
    model: MaskedLMWithPooler, texts: TokenisedTexts, file: Path, device: str, arrangement: Arrangement | None
) -> Float[Tensor, "K N H"]:
    """As `cls_states`: those in `file` (`.npy`), or computed and kept there for other seeds and objectives.

    Raises:
        UserError: the disk has no room.
    """
    with ranks.first_alone():
        return _kept_cls_states(model, texts, file, device, arrangement)


def _kept_cls_states(
    model: MaskedLMWithPooler, texts: TokenisedTexts, file: Path, device: str, arrangement: Arrangement | None
) -> Float[Tensor, "K N H"]:
    if is_kept(file):
        return torch.from_numpy(np.load(file, allow_pickle=False))
    log.info("reading %s once with the frozen encoder", counted(len(texts), "text"))
    states = cls_states(model, texts, device, arrangement)
    file.parent.mkdir(parents=True, exist_ok=True)
    check_room(file.parent, states.nbytes)
    with sealed_draft_of(file) as draft, draft.open("wb") as stream:
        np.save(stream, states.numpy(), allow_pickle=False)
    return states


def cls_states(
    model: MaskedLMWithPooler, texts: TokenisedTexts, device: str, arrangement: Arrangement | None
) -> Float[Tensor, "K N H"]:
    """The last layer's state of token 0 of each unmasked row, in fp32, without dropout, computed on `device`.

    K is the number of rows a text: two `halves`, else one. The model is left on `device`, in the mode that it was in.
    """
    was_training, console = model.training, Console()
    model.to(device).eval()
    states = torch.empty(2 if arrangement == "halves" else 1, len(texts), model.config.hidden_size)
    with torch.no_grad():
        batches = batches_to_read(texts.lengths, model.config.hidden_size, device)
        for examples in track(batches, "  reading", console=console, transient=True, disable=not console.is_terminal):
            rows = halves(texts, examples) if arrangement == "halves" else single(texts, examples)
            mask = torch.from_numpy(rows.present.astype(np.int64)).to(device)
            body = model.body(torch.from_numpy(rows.token_ids).to(device), attention_mask=mask)
            found = body.last_hidden_state[:, 0].float().cpu()
            states[:, torch.from_numpy(examples)] = found.unflatten(0, (len(states), -1))
    model.train(was_training)
    return states
