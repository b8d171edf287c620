"""`python -m poolwise.exports.check FORM FOLDER`: read an export by the library it is for, and tell what it computes.

It takes texts as JSON from standard input and gives numbers as JSON, a row a text: probabilities, logits, or vectors. It is run in a
process of its own, and imports nothing of poolwise: what it reads is the folder alone.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

Rows = list[list[float]]


def by_pipeline(folder: str, texts: list[str]) -> Rows:
    """The probabilities that `pipeline("text-classification")` gives."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=folder, device="cpu")
    names = list(classify.model.config.id2label.values())
    rows: Rows = []
    for found in classify(texts, top_k=None, truncation=True):
        scores = {each["label"]: each["score"] for each in found}
        rows.append([scores[name] for name in names])
    return rows


def by_sentence_transformers(folder: str, texts: list[str]) -> Rows:
    """Vectors of `SentenceTransformer.encode`."""
    from sentence_transformers import SentenceTransformer

    rows: Rows = SentenceTransformer(folder, device="cpu").encode(texts).tolist()
    return rows


def by_onnxruntime(folder: str, texts: list[str]) -> Rows:
    """Logits of the graph: of all texts in one batch, the longest of which sets the size."""
    import onnxruntime
    from transformers import AutoTokenizer

    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
    rows = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    names = [each.name for each in session.get_inputs()]
    logits, _ = session.run(["logits", "vectors"], {name: rows[name] for name in names})
    found: Rows = logits.tolist()
    return found


def by_auto_model(folder: str, texts: list[str]) -> Rows:
    """The last layer's states of token 0."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    rows = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(rows["input_ids"], rows["attention_mask"])
    found: Rows = states.last_hidden_state[:, 0].tolist()
    return found


READERS: dict[str, Callable[[str, list[str]], Any]] = {
    "transformers": by_pipeline,
    "sentence-transformers": by_sentence_transformers,
    "onnx": by_onnxruntime,
    "encoder": by_auto_model,
}

if __name__ == "__main__":
    form, folder = sys.argv[1:]
    print(json.dumps(READERS[form](folder, json.load(sys.stdin))))
