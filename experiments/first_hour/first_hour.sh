#!/usr/bin/env bash
# The first hour of a new user, from a fresh clone, as a transcript: `bash first_hour.sh REPOSITORY FOLDER > transcript.txt`
set -u
repository=$(realpath "$1")
mkdir -p "$2" && cd "$2" && rm -rf poolwise
export WANDB_MODE=offline PIP_QUIET=2

say() { printf '\n$ %s\n' "$*"; }
try() {
    say "$@"
    local start=$SECONDS
    "$@" 2>&1 | grep -v "is ignored: it is neither a file nor a directory"
    local code=${PIPESTATUS[0]}
    echo "[exit code $code after $((SECONDS - start)) s]"
}

say "git clone REPOSITORY poolwise && cd poolwise"
git clone -q "$repository" poolwise && cd poolwise && git log -1 --format='[commit %h]'
try make
try make demo
source .venv/bin/activate

echo; echo "--- own data: 3,000 reviews in a spreadsheet saved as CSV, with column names of its own ---"
python - <<'PYTHON'
import csv
from poolwise.data.demo import generate_reviews

reviews = generate_reviews(3000, seed=7)
for name, part in {"train": reviews[:2400], "dev": reviews[2400:2700], "test": reviews[2700:]}.items():
    with open(f"{name}.csv", "w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["review", "verdict"])
        rows.writerows([review.text, ["bad", "good"][review.label]] for review in part)
PYTHON
say head -3 train.csv; head -3 train.csv
own=(data=files data.train=train.csv data.dev=dev.csv data.test=test.csv)
named=(data.text_column=review data.label_column=verdict)

echo; echo "--- mistake 1: columns have other names ---"
try python train.py stage=mlm "${own[@]}"
echo; echo "--- mistake 2: two words misspelt, and a setting of the other stage ---"
try python train.py stage=mlm "${own[@]}" "${named[@]}" repr=pooler pretraining.epoch=2 model.layers=two
echo; echo "--- mistake 3: stage 2 before stage 1 ---"
try python train.py stage=sentiment "${own[@]}" "${named[@]}" repr=cls,pooler,mean,cls_linear -m
echo; echo "--- as the messages say ---"
try python train.py stage=mlm "${own[@]}" "${named[@]}" pretraining.epochs=20
try python train.py stage=sentiment "${own[@]}" "${named[@]}" stage1.epochs=20 repr=pooler,mean -m
try python -m poolwise.report
