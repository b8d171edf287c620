"""Write the untrained neutral encoder: a small BERT whose word embeddings come from counts of neighbouring word pieces.

    python experiments/pooler_objectives/neutral.py TEXTS.txt FOLDER

The embeddings are the first singular vectors of positive pointwise mutual information (Levy and Goldberg 2014), so that
MLM on 4.6 million tokens starts from words that are like each other; all else is random. Without this, MLM stays at
the frequencies of words for as long as two CPU cores can train it in an hour. Its config has no dropout, which
pretraining this short does without; set both probabilities in config.json to 0.1 afterwards.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from scipy.sparse import coo_matrix
from sklearn.utils.extmath import randomized_svd
from transformers import BertConfig

from poolwise.data.tokens import train_wordpiece
from poolwise.encoder import BertForMaskedLMWithPooler

VOCABULARY, HIDDEN, LAYERS, WINDOW, DEVIATION = 8000, 256, 4, 4, 0.04


def mutual_information(ids: list[list[int]], size: int) -> coo_matrix:
    """Positive pointwise mutual information (V, V) of word pieces at most `WINDOW` apart."""
    flat = np.concatenate([np.array([*row, *[-1] * WINDOW]) for row in ids])
    counts = coo_matrix((size, size), dtype=np.float64).tocsr()
    for distance in range(1, WINDOW + 1):
        left, right = flat[:-distance], flat[distance:]
        both = (left >= 0) & (right >= 0)
        pairs = coo_matrix((np.ones(both.sum()), (left[both], right[both])), shape=(size, size)).tocsr()
        counts = counts + pairs + pairs.T
    found = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    smoothed = totals**0.75 / (totals**0.75).sum()  # context distribution smoothing, Levy et al. 2015, section 3.1
    values = np.log(found.data / totals[found.row] / smoothed[found.col])
    kept = values > 0
    return coo_matrix((values[kept], (found.row[kept], found.col[kept])), shape=(size, size))


def main() -> None:
    """Build the encoder and write it with its tokenizer."""
    texts, folder = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines(), Path(sys.argv[2])
    tokenizer = train_wordpiece(Dataset.from_dict({"text": texts}), VOCABULARY, 128)
    ids = tokenizer(texts, truncation=True, max_length=128, add_special_tokens=False)["input_ids"]
    vectors, values, _ = randomized_svd(mutual_information(ids, len(tokenizer)).tocsr(), HIDDEN, random_state=1)
    vectors = vectors * np.sqrt(values)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=1024,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLMWithPooler(config)
    embeddings = model.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        rows = torch.from_numpy(vectors / vectors.std() * DEVIATION).float()
        known = rows.abs().sum(dim=1) > 0
        embeddings[known] = rows[known]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
