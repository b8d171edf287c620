"""Stage 1 with the encoder frozen: only the pooler, and what the objective may hold, are trained.

The last layer's state of [CLS] is computed once a text, so that a step costs a dense layer and the objective.
Shapes: B texts, N examples, H hidden size.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from poolwise.data.batching import Batch, Request, SortedBatches
from poolwise.data.tokens import TokenisedTexts
from poolwise.encoder import BertForMaskedLMWithPooler
from poolwise.stages.mlm import MaskedLanguageModelling

BATCH = 64


class PoolerTraining(MaskedLanguageModelling):
    """Trains the pooler of a frozen `BertForMaskedLMWithPooler` by the objective alone, on batches with `cls_states`.

    What is measured and noted is as in `MaskedLanguageModelling`, less the figures of MLM.
    """

    def objective_loss(self, batch: Batch) -> Tensor:
        """The objective's loss, unweighted, from `cls_states` (B, H) and the unmasked texts."""
        pooler_output = self.model.bert.pooler(batch["cls_states"].unsqueeze(1))
        loss: Tensor = self.objective(pooler_output, batch["original_ids"], self.model.cls)
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weight x objective loss."""
        loss = self.objective_loss(batch)
        weighted = self.objective.weight * loss
        self.probe({self.objective.name: weighted})
        self.log_training({"objective_loss": loss.detach()})
        return weighted

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the objective, by texts."""
        self.dev_objective.update(self.objective_loss(batch), len(batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        """Log the objective."""
        self.log("dev/objective_loss", self.dev_objective.compute())
        self.dev_objective.reset()


class BatchesWithStates(Dataset[Batch]):
    """Other batches, with `cls_states` (B, H) of their examples beside them."""

    def __init__(self, batches: Dataset[Batch], states: Float[Tensor, "N H"]) -> None:
        self.batches = batches
        self.states = states

    def __getitem__(self, requests: list[Request]) -> Batch:
        examples = torch.tensor([example for _, example in requests])
        return {**self.batches[requests], "cls_states": self.states[examples]}


def cls_states(model: BertForMaskedLMWithPooler, texts: TokenisedTexts, device: str) -> Float[Tensor, "N H"]:
    """The last layer's state of token 0 of each unmasked text, in fp32, without dropout, computed on `device`.

    The model is left on `device`, in the mode that it was in.
    """
    was_training = model.training
    model.to(device).eval()
    states = torch.empty(len(texts), model.config.hidden_size)
    with torch.no_grad():
        for requests in SortedBatches(texts.lengths, BATCH):
            examples = np.array([example for _, example in requests])
            ids, present = texts.padded(examples)
            mask = torch.from_numpy(present.astype(np.int64)).to(device)
            body = model.bert(torch.from_numpy(ids).to(device), attention_mask=mask)
            states[torch.from_numpy(examples)] = body.last_hidden_state[:, 0].float().cpu()
    model.train(was_training)
    return states
