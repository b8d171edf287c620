"""`python -m poolwise.exports.check FORM FOLDER LENGTH`: read an export by the library it is for, and tell its numbers.

It takes texts as JSON from standard input, reads LENGTH word pieces of each, and gives probabilities, logits or vectors
as JSON, a row a text. It is run in a process of its own, and imports nothing of poolwise: it reads the folder alone.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

Rows = list[list[float]]


def by_pipeline(folder: str, texts: list[str], length: int) -> Rows:
    """The probabilities that `pipeline("text-classification")` gives."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=folder, device="cpu")
    names = list(classify.model.config.id2label.values())
    rows: Rows = []
    for found in classify(texts, top_k=None, truncation=True, max_length=length):
        scores = {each["label"]: each["score"] for each in found}
        rows.append([scores[name] for name in names])
    return rows


def by_sentence_transformers(folder: str, texts: list[str], length: int) -> Rows:
    """Vectors of `SentenceTransformer.encode`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    assert model.max_seq_length == length
    rows: Rows = model.encode(texts).tolist()
    return rows


def by_onnxruntime(folder: str, texts: list[str], length: int) -> Rows:
    """Logits and vectors of the graph, side by side: of all texts in one batch, and of each alone."""
    import numpy as np
    import onnxruntime
    from transformers import AutoTokenizer

    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def computed(batch: list[str]) -> Any:
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=length, return_tensors="np")
        return np.hstack(session.run(["logits", "vectors"], dict(tokens)))

    found: Rows = np.hstack([computed(texts), np.vstack([computed([text]) for text in texts])]).tolist()
    return found


def by_auto_model(folder: str, texts: list[str], length: int) -> Rows:
    """The last layer's states of token 0, and beside them the pooler's output where the folder has a pooler."""
    import torch
    from safetensors import safe_open
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(rows["input_ids"], rows["attention_mask"])
    with safe_open(f"{folder}/model.safetensors", framework="pt") as weights:
        has_pooler = any("pooler." in name for name in weights.keys())  # noqa: SIM118
    pooled = [states.pooler_output] if has_pooler and "pooler_output" in states else []
    found: Rows = torch.cat([states.last_hidden_state[:, 0], *pooled], dim=1).tolist()
    return found


READERS: dict[str, Callable[[str, list[str], int], Any]] = {
    "transformers": by_pipeline,
    "sentence-transformers": by_sentence_transformers,
    "onnx": by_onnxruntime,
    "encoder": by_auto_model,
}

if __name__ == "__main__":
    form, folder, length = sys.argv[1:]
    print(json.dumps(READERS[form](folder, json.load(sys.stdin), int(length))))
