import json

import numpy as np
import pytest
from transformers import AutoModel, BertForSequenceClassification

from poolwise.card import classifier_card
from poolwise.compare.report import write_report
from poolwise.export import CHECKED_TEXTS, FORMS, export, main
from poolwise.exports.check import READERS
from poolwise.representations import REPRESENTATIONS
from poolwise.settings import UserError
from poolwise.trained import load

TO_SENTENCE_TRANSFORMERS = sorted(set(REPRESENTATIONS) - {"cls_last4", "attention"})
ALLOWED = {
    "transformers": ["cls", "pooler", "cls_linear"],
    "sentence-transformers": TO_SENTENCE_TRANSFORMERS,
    "encoder": ["mean", "pooler"],
}


@pytest.fixture(autouse=True)
def four_layers(config):
    config.num_hidden_layers = 4  # as many as some representations read


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, names in ALLOWED.items() for name in names])
def test_an_export_computes_what_the_run_does(trained_run, tmp_path, form, name):
    trained = load(trained_run(name)[0])
    FORMS[form].write(trained, tmp_path / "export")
    found = np.array(READERS[form](str(tmp_path / "export"), CHECKED_TEXTS, 32))
    np.testing.assert_allclose(found, FORMS[form].expected(trained, CHECKED_TEXTS), atol=FORMS[form].tolerance)
    assert [place.name for place in tmp_path.glob("export*")] == ["export"]  # and nothing beside it


def test_the_pooler_goes_into_berts_own_classifier_as_it_is(trained_run, tmp_path):
    folder, classifier = trained_run("pooler")
    FORMS["transformers"].write(load(folder), tmp_path / "export")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "export")
    assert (model.bert.pooler.dense.weight == classifier.pooler.dense.weight).all()
    assert (model.classifier.weight == classifier.head.weight / 2.0).all()
    assert model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize("name", ["cls", "mean"])
@pytest.mark.parametrize("form", ["transformers", "sentence-transformers"])
def test_a_lower_layer_is_the_last_one_of_an_export(trained_run, tmp_path, form, name):
    if (form, name) == ("transformers", "mean"):
        return
    folder, _ = trained_run(name, representation={"name": name, "layer": 2})
    trained = load(folder)
    FORMS[form].write(trained, tmp_path / "export")
    found = np.array(READERS[form](str(tmp_path / "export"), CHECKED_TEXTS, 32))
    np.testing.assert_allclose(found, FORMS[form].expected(trained, CHECKED_TEXTS), atol=FORMS[form].tolerance)


@pytest.mark.parametrize(
    ("form", "name", "reason"),
    [
        ("transformers", "mean", "read token 0 alone.*--to onnx"),
        ("sentence-transformers", "attention", "no module for"),
        ("sentence-transformers", "cls_last4", "no module for"),
    ],
)
def test_what_has_no_such_form_is_refused_and_leaves_nothing(trained_run, tmp_path, form, name, reason):
    with pytest.raises(UserError, match=reason):
        export(trained_run(name)[0], form, tmp_path / "exports" / "one")
    assert list((tmp_path / "exports").iterdir()) == []


def test_an_export_that_computes_something_else_is_not_kept(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr("poolwise.export.computed", lambda to, folder, length: np.zeros((len(CHECKED_TEXTS), 2)))
    with pytest.raises(UserError, match=r"differs by .* from the run, more than 1e-04"):
        export(trained_run("pooler")[0], "transformers", tmp_path / "exports" / "one")
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_folder_of_other_things_is_left_alone(trained_run, tmp_path):
    folder, _ = trained_run("pooler")
    (tmp_path / "mine").mkdir()
    for name in ("thesis.txt", "README.md"):
        (tmp_path / "mine" / name).write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for place in (tmp_path / "mine", tmp_path / "link", tmp_path / "mine" / "thesis.txt", folder):
        with pytest.raises(UserError, match="there is something else there"):
            export(folder, "encoder", place)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (folder / "record.json").is_file()


def test_an_export_takes_the_place_of_an_earlier_one(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "poolwise.export.computed", lambda to, folder, length: READERS[to](str(folder), CHECKED_TEXTS, 32)
    )
    for name in ("pooler", "mean"):
        export(trained_run(name)[0], "encoder", tmp_path / "one")
    assert "Its sentence vector is `mean`" in (tmp_path / "one" / "README.md").read_text()
    assert [place.name for place in tmp_path.glob("one*")] == ["one"]


def test_links_out_of_the_run_are_not_followed(trained_run, tmp_path, monkeypatch, capsys):
    folder, _ = trained_run("pooler")
    (tmp_path / "outside").mkdir()
    (folder / "exports").symlink_to(tmp_path / "outside")
    monkeypatch.setattr("sys.argv", ["export", str(folder), "--to", "encoder"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "is a link that leads out of the run" in capsys.readouterr().err
    (tmp_path / "runs" / "report").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link that leads out of"):
        write_report(tmp_path / "runs")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_run_without_its_record_is_told(trained_run, tmp_path):
    folder, _ = trained_run("pooler")
    (folder / "record.json").unlink()
    with pytest.raises(UserError, match="its record is gone or broken"):
        export(folder, "encoder", tmp_path / "one")


def test_words_of_a_card_are_no_tags_and_no_headings(trained_run):
    trained = load(trained_run("pooler", formula="<script>alert(1)</script>\n# big")[0])
    card = classifier_card(trained, "use")
    assert "\\<script>alert(1)\\</script> # big." in card


def test_pushing_needs_somebody_who_is_logged_in(trained_run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        "poolwise.export.computed", lambda to, folder, length: READERS[to](str(folder), CHECKED_TEXTS, length)
    )
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    folder, _ = trained_run("pooler")
    monkeypatch.setattr("sys.argv", ["export", str(folder), "--to", "encoder", "--push", "me/mine"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "--push=me/mine: nobody is logged in to the hub" in capsys.readouterr().err
    AutoModel.from_pretrained(folder / "exports" / "encoder")
    card = (folder / "exports" / "encoder" / "README.md").read_text()
    assert "| test/accuracy | 0.9900 | 0.9643 to 0.9973 |" in card


@pytest.mark.slow
@pytest.mark.parametrize("form", sorted(FORMS))
def test_each_form_is_checked_in_another_process(trained_run, tmp_path, form):
    assert export(trained_run("pooler")[0], form, tmp_path / "one") <= FORMS[form].tolerance


@pytest.mark.slow
def test_a_graph_takes_any_representation_and_any_size(trained_run, tmp_path):
    for name in sorted(REPRESENTATIONS):
        assert export(trained_run(name)[0], "onnx", tmp_path / name) <= 1e-4
        assert json.loads((tmp_path / name / "tokenizer_config.json").read_text())["model_max_length"] == 32
