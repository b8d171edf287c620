"""The symptom on real weights: load a plain MLM checkpoint twice, then an export of this project twice.

python experiments/first_real_run/missing_pooler.py runs/first_real_run/mlm/mr-minilm-bow-seed1-KEY/export
"""

import sys
import tempfile

import torch
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM
from transformers.utils import logging

SENTENCE = "the acting is fine, but the plot never quite comes together."


def load_twice(folder: str, sentence: dict[str, torch.Tensor]) -> None:
    """Print how far the outputs of two loads lie apart, and which keys are missing."""
    outputs = []
    for _ in range(2):
        model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        with torch.no_grad():
            outputs.append(model(**sentence))
    for name in ("last_hidden_state", "pooler_output"):
        apart = (outputs[0][name] - outputs[1][name]).abs().max().item()
        print(f"  {name:<18} largest difference between two loads: {apart:.4f}")
    print(f"  missing keys: {', '.join(sorted(info['missing_keys'])) or 'none'}")


def main() -> None:
    """Make the plain checkpoint of the export's own weights, as `BertForMaskedLM` saves it, and compare."""
    export = sys.argv[1]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sentence = AutoTokenizer.from_pretrained(export)(SENTENCE, return_tensors="pt")
    with tempfile.TemporaryDirectory() as plain:
        BertForMaskedLM.from_pretrained(export).save_pretrained(plain)
        print("plain MLM checkpoint (BertForMaskedLM.save_pretrained)")
        load_twice(plain, sentence)
    print("export of poolwise, same encoder")
    load_twice(export, sentence)


if __name__ == "__main__":
    main()
