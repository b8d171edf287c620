import json

import pytest
import torch
from torch.nn import functional

from helpers import SMALL_RUN, SMALL_STAGE1, SMALL_STAGE2, objective_settings
from poolwise.data.tokens import with_ratings
from poolwise.objectives import build_objective, label_of
from poolwise.objectives.base import Surroundings


def test_it_is_the_cross_entropy_over_texts_of_known_rating(model, surroundings, texts):
    rated = with_ratings({"train": texts, "dev": texts}, {"train": list("215251"), "dev": list("215953")})
    assert rated["train"].rating_names == ("1", "2", "5")
    assert rated["train"].ratings.tolist() == [1, 0, 2, 1, 2, 0]
    assert rated["dev"].ratings.tolist() == [1, 0, 2, -100, 2, -100]
    around = Surroundings(surroundings.tokenizer, surroundings.config, rated["train"])
    objective = build_objective(objective_settings("rating"), around, seed=1)
    vectors = torch.randn(6, 16, requires_grad=True)
    found = objective(vectors, {"ratings": torch.from_numpy(rated["dev"].ratings)}, model)
    known = [0, 1, 2, 4]
    expected = functional.cross_entropy(objective.head(vectors[known]), torch.tensor([1, 0, 2, 2]))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert (vectors.grad[known].abs().sum(dim=1) > 0).all()
    assert (vectors.grad[[3, 5]] == 0).all()
    assert objective(vectors, {"ratings": torch.full((6,), -100)}, model).item() == 0.0
    assert objective.notes()["rating"] == {
        "further_encoder_passes": 0,
        "reads_labels": True,
        "ratings": ["1", "2", "5"],
    }


@pytest.mark.slow
def test_it_is_marked_in_record_card_and_tables(program, tmp_path):
    assert label_of({"name": "rating"}) == "rating (reads labels)"
    assert program("stage=mlm", "objective=rating", *SMALL_STAGE1, "logger=csv") == 0
    (file,) = (tmp_path / "runs/mlm").glob("*/record.json")
    record = json.loads(file.read_text())
    assert record["objective"] == "rating (reads labels)"
    assert record["provenance"]["pooler_status"] == "trained"
    assert record["provenance"]["objectives"]["rating"]["ratings"] == ["1", "2", "4", "5"]
    assert "learned from labels" in (file.parent / "export/README.md").read_text()
    stage2 = ["stage=sentiment", "objective@stage1.objective=rating", *SMALL_STAGE2, "logger=csv"]
    assert program(*stage2) == 0
    moved = (file.parent / "export").rename(tmp_path / "elsewhere")
    assert program("stage=sentiment", f"encoder={moved}", "seed=2", *SMALL_STAGE2, "logger=csv") == 0
    found = [json.loads(each.read_text()) for each in (tmp_path / "runs/sentiment").glob("*/record.json")]
    assert [run["objective"] for run in found] == ["rating (reads labels)"] * 2
    assert f"{moved} (reads labels)" in {run["encoder"] for run in found}


@pytest.mark.parametrize(
    ("stars", "column", "words"),
    [
        ([1, 5], "data.rating_column=stars", ""),
        ([1, 5], "data.rating_column=null", "data.rating_column"),
        ([5, 5], "data.rating_column=stars", "all ratings of the training texts are '5'"),
    ],
)
def test_own_files(program, tmp_path, capsys, stars, column, words):
    file = tmp_path / "texts.csv"
    file.write_text("text,stars\n" + "\n".join(f"a film number {n},{stars[n % 2]}" for n in range(40)) + "\n")
    own = ["data=files", f"data.text={file}", column, "data.max_length=16"]
    model = [setting for setting in SMALL_RUN if setting.startswith(("model", "trainer"))]
    code = program("stage=mlm", "objective=rating", *own, *model, "pretraining.epochs=1", "logger=csv")
    assert code == (2 if words else 0)
    assert words in capsys.readouterr().err
