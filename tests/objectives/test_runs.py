"""Every kind of batch, from the command line to the export."""

import json

import pytest
from safetensors import safe_open

from helpers import SMALL_STAGE1

OBJECTIVES = {
    "bow": [
        "pretraining.masking.unit=span",
        "pretraining.masking.final_mask_probability=0.3",
        "objective.idf_weighted=true",
        "pretraining.epochs=2",
    ],
    "views": ["objective.projection_size=8", "objective.topic_neighbours=true"],
    "halves": [],
    "simcse": ["model.dropout=0.1"],
    "decoder": [],
    "sop": [],
    "nsp": [],
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_trains_the_pooler_and_leaves_nothing_of_its_own_in_the_export(program, tmp_path, name):
    assert program("stage=mlm", f"objective={name}", *SMALL_STAGE1, *OBJECTIVES[name], "logger=csv") == 0
    (file,) = (tmp_path / "runs/mlm").glob("*/record.json")
    record = json.loads(file.read_text())
    provenance = record["provenance"]
    assert provenance["pooler_status"] == "trained"
    assert provenance["parts"]["pooler"]["losses"] == [name]
    assert provenance["parts"]["layer.0"]["losses"] == sorted(["mlm", name])
    assert set(provenance["objectives"]) == {name}
    assert record["metrics"]["dev/objective_loss"] > 0
    with safe_open(file.parent / "export/model.safetensors", framework="pt") as tensors:
        assert {key.split(".")[0] for key in tensors.keys()} == {"bert", "cls"}  # noqa: SIM118
