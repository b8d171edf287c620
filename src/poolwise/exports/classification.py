"""A folder that `pipeline("text-classification", model=FOLDER)` of transformers runs, without code of its own."""

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from poolwise.exports.dense import DenseForm, body_up_to_layer, dense_form
from poolwise.families import family_of
from poolwise.settings import UserError
from poolwise.trained import TrainedClassifier

PLACES = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
}
"""Where the classifier of a family has its dense layer with tanh, and its head, by `model_type`."""


def write(trained: TrainedClassifier, folder: Path) -> None:
    """Write config, weights and tokenizer.

    Raises:
        UserError: this representation, or family, has no such form.
    """
    form = dense_form(trained)
    body = body_up_to_layer(trained)
    kind = body.config.model_type
    if kind not in PLACES:
        raise UserError(
            f"{family_of(body.config).name}: its classifier in transformers has no dense layer with tanh; allowed: "
            "--to onnx, and --to sentence-transformers for vectors"
        )
    names = trained.notes.label_names
    config = body.config
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.num_labels = len(names)
    model = AutoModelForSequenceClassification.from_config(config)
    getattr(model, model.base_model_prefix).load_state_dict(body.state_dict(), strict=False)
    _fill(model, *PLACES[kind], form)
    model.save_pretrained(folder)
    trained.tokenizer.model_max_length = trained.notes.max_length
    trained.tokenizer.save_pretrained(folder)


def _fill(model: torch.nn.Module, dense: str, head: str, form: DenseForm) -> None:
    with torch.no_grad():
        for place, weight, bias in (
            (dense, form.dense_weight, form.dense_bias),
            (head, form.head_weight, form.head_bias),
        ):
            model.get_parameter(f"{place}.weight").copy_(weight)
            model.get_parameter(f"{place}.bias").copy_(bias)
