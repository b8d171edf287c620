"""An ONNX file from token ids to vectors and logits, for batches and texts of any size.

Shapes: B texts, T tokens, D vector size, C classes.
"""

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from poolwise.exports.dense import calibrated_head
from poolwise.settings import UserError
from poolwise.trained import TrainedClassifier

GRAPH_FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "vectors")


class Graph(nn.Module):
    """What is traced: vectors (B, D), and logits (B, C) whose softmax is calibrated."""

    def __init__(self, trained: TrainedClassifier) -> None:
        super().__init__()
        self.classifier = trained.classifier
        self.head = nn.Linear(trained.classifier.head.in_features, trained.classifier.head.out_features)
        weight, bias = calibrated_head(trained)
        self.head.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """Token ids and their mask to logits and vectors."""
        vectors = self.classifier.vectors_of_windows({"input_ids": input_ids, "attention_mask": attention_mask})
        return self.head(vectors), vectors


def write(trained: TrainedClassifier, folder: Path) -> None:
    """Write the graph, and beside it the tokenizer, which gives what the graph takes.

    Raises:
        UserError: what the export needs is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("--to onnx needs onnx and onnxscript: pip install 'poolwise[export]'") from error
    trained.classifier.cpu()
    ids = torch.ones((2, 3), dtype=torch.int64)
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=trained.notes.max_length)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph(trained).eval(),
            (ids, torch.ones_like(ids)),
            str(folder / GRAPH_FILE),
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=dict.fromkeys(INPUTS, sizes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    tokenizer = copy.deepcopy(trained.tokenizer)
    tokenizer.model_max_length, tokenizer.model_input_names = trained.notes.max_length, list(INPUTS)
    tokenizer.init_kwargs["model_input_names"] = list(INPUTS)  # only what is named here is saved
    tokenizer.save_pretrained(folder)
