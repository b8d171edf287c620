import json
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from sklearn.metrics import f1_score
from transformers import AutoModel, BertForSequenceClassification

from poolwise.card import LIBRARIES, classifier_card, intervals_of, macro_f1
from poolwise.checkpoints import SUMS_FILE, check_checkpoint, check_sums, provenance_of
from poolwise.compare.report import write_report
from poolwise.encoder import export as export_stage_1
from poolwise.export import FORMS, checked_texts, export, main, push
from poolwise.exports.check import READERS
from poolwise.representations import REPRESENTATIONS
from poolwise.settings import UserError
from poolwise.trained import load

TO_SENTENCE_TRANSFORMERS = sorted(set(REPRESENTATIONS) - {"attention"})
ALLOWED = {
    "transformers": ["cls", "pooler", "cls_linear"],
    "sentence-transformers": TO_SENTENCE_TRANSFORMERS,
    "encoder": ["mean", "pooler"],
}
OTHER_FORMS = sorted(set(FORMS) - {"onnx"})

TEXTS_32 = checked_texts(32)


@pytest.fixture(autouse=True)
def four_layers(config):
    config.num_hidden_layers = 4  # as many as some representations read


QUICK = ("pooler", "mean", "cls_linear")


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param(form, name, marks=[] if name in QUICK else [pytest.mark.slow])
        for form, names in ALLOWED.items()
        for name in names
    ],
)
def test_an_export_computes_what_the_run_does(trained_run, tmp_path, form, name):
    trained = load(trained_run(name)[0])
    FORMS[form].write(trained, tmp_path / "export")
    found = np.array(READERS[form](str(tmp_path / "export"), TEXTS_32, 32))
    np.testing.assert_allclose(found, FORMS[form].expected(trained, TEXTS_32), atol=FORMS[form].tolerance)
    assert [place.name for place in tmp_path.glob("export*")] == ["export"]  # and nothing beside it


def test_the_pooler_goes_into_berts_own_classifier_as_it_is(trained_run, tmp_path):
    folder, classifier = trained_run("pooler")
    FORMS["transformers"].write(load(folder), tmp_path / "export")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "export")
    assert (model.bert.pooler.dense.weight == classifier.pooler.dense.weight).all()
    assert (model.classifier.weight == classifier.head.weight / 2.0).all()
    assert model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.slow
def test_four_layers_side_by_side_and_what_a_text_that_holds_cls_as_a_word_does(trained_run, tmp_path):
    trained = load(trained_run("cls_last4")[0])
    FORMS["sentence-transformers"].write(trained, tmp_path / "export")
    texts = [*TEXTS_32, "A [CLS] film."]
    found = np.array(READERS["sentence-transformers"](str(tmp_path / "export"), texts, 32))
    differences = abs(found - trained.encode(texts)).reshape(len(texts), 4, 16).max(axis=2)
    assert differences[:-1].max() <= 1e-5
    assert (differences[-1] > 1e-3).tolist() == [False, True, True, True]
    says = {form: "means over all such tokens" in classifier_card(trained, "use", form) for form in FORMS}
    assert says == dict.fromkeys(FORMS, False) | {"sentence-transformers": True}


@pytest.mark.parametrize(
    ("form", "name"), [("transformers", "cls"), ("sentence-transformers", "cls"), ("sentence-transformers", "mean")]
)
def test_a_lower_layer_is_the_last_one_of_an_export(trained_run, tmp_path, form, name):
    folder, _ = trained_run(name, representation={"name": name, "layer": 2})
    trained = load(folder)
    FORMS[form].write(trained, tmp_path / "export")
    found = np.array(READERS[form](str(tmp_path / "export"), TEXTS_32, 32))
    np.testing.assert_allclose(found, FORMS[form].expected(trained, TEXTS_32), atol=FORMS[form].tolerance)


@pytest.mark.parametrize(
    ("form", "name", "reason"),
    [
        ("transformers", "mean", "read token 0 alone.*--to onnx"),
        ("sentence-transformers", "attention", "no module that weighs tokens by their states.*--to onnx"),
    ],
)
def test_what_has_no_such_form_is_refused_and_leaves_nothing(trained_run, tmp_path, form, name, reason):
    with pytest.raises(UserError, match=reason):
        export(trained_run(name)[0], form, tmp_path / "exports" / "one")
    assert list((tmp_path / "exports").iterdir()) == []


def test_an_export_that_computes_something_else_is_not_kept(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr("poolwise.export.computed", lambda to, folder, length: np.zeros((len(TEXTS_32), 2)))
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
    monkeypatch.setattr("poolwise.export.computed", lambda to, folder, length: READERS[to](str(folder), TEXTS_32, 32))
    for name in ("pooler", "mean"):
        export(trained_run(name)[0], "encoder", tmp_path / "one")
    assert "Its sentence vector is `mean`" in (tmp_path / "one" / "README.md").read_text()
    assert [place.name for place in tmp_path.glob("one*")] == ["one"]


def test_an_encoder_that_stage_2_left_alone_is_given_on_whole_and_alone(
    trained_run, model, tokenizer, tmp_path, monkeypatch
):
    """Of its folder what belongs to the checkpoint, with its own card and sums: poolwise takes it again."""
    monkeypatch.setattr("poolwise.export.computed", lambda to, folder, length: READERS[to](str(folder), TEXTS_32, 32))
    stage1, exported = tmp_path / "runs" / "mlm" / "stage1" / "export", tmp_path / "one"
    export_stage_1(model, tokenizer, {"pooler_status": "trained", "parts": {}}, "# card of stage 1", stage1)
    (stage1 / "private.csv").write_text("text,label")
    export(trained_run("cls", own_encoder=False)[0], "encoder", exported)
    check_checkpoint(str(exported), refuse_unexpected=True)
    kept = {"config.json", "model.safetensors", "provenance.json", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in exported.iterdir()} == kept | {"README.md", "poolwise_export.json", SUMS_FILE}
    assert len((exported / SUMS_FILE).read_text().splitlines()) == len(kept) + 2
    for name in kept - {"tokenizer_config.json"}:
        assert (exported / name).read_bytes() == (stage1 / name).read_bytes(), name
    assert provenance_of(exported)["pooler_status"] == "trained"
    assert "of a classifier into bad, good" in (exported / "README.md").read_text()

    (stage1 / SUMS_FILE).unlink()
    (stage1 / "provenance.json").write_text('{"of": "another program"}')
    (tmp_path / "two").mkdir()
    FORMS["encoder"].write(load(trained_run("cls", own_encoder=False)[0]), tmp_path / "two")
    assert {file.name for file in (tmp_path / "two").iterdir()} == kept - {"provenance.json"}


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
    card = classifier_card(trained, "use", "transformers")
    assert "\\<script>alert(1)\\</script> # big." in card


def test_a_card_of_an_encoder_says_nothing_of_probabilities_and_has_intervals(trained_run, monkeypatch):
    monkeypatch.setattr("poolwise.card.intervals_of", cache(intervals_of))
    trained = load(trained_run("pooler")[0])
    rows = pandas.read_parquet(trained.folder / "predictions.parquet", filters=[("split", "==", "test")])
    for form, (library, task) in LIBRARIES.items():
        card = classifier_card(trained, "use", form)
        assert card.startswith(f"---\nlibrary_name: {library}\npipeline_tag: {task}\n")
        classifies = task == "text-classification"
        assert ("calibrated on dev" in card) == ("| test/accuracy |" in card) == classifies
        assert ("This export classifies nothing." in card) != classifies
        assert "| seed | 1 |" in card
    card = classifier_card(trained, "use", "transformers")
    for name in ("matthews", "loss"):
        low, high = (float(word) for word in re.search(rf"test/{name} \| \S+ \| (\S+) to (\S+) ", card).groups())
        assert low < high
    right = len(rows) - 2
    low, high = (float(word) for word in re.search(r"test/accuracy \| \S+ \| (\S+) to (\S+) ", card).groups())
    assert low < right / len(rows) < high
    f1_low, f1_high = (float(word) for word in re.search(r"test/macro_f1 \| \S+ \| (\S+) to (\S+) ", card).groups())
    assert low - 0.02 < f1_low < right / len(rows) < f1_high <= 1.0


def test_macro_f1_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    answers, labels = random.integers(3, size=(2, 50))
    assert macro_f1(answers, labels) == pytest.approx(f1_score(labels, answers, average="macro"))
    assert macro_f1(labels * 0, labels * 0) == 1.0


@pytest.mark.parametrize("read", ["tail", "windows"])
def test_long_texts_are_compared_as_other_programs_cut_them(trained_run, tmp_path, monkeypatch, read):
    monkeypatch.setattr(
        "poolwise.export.computed", lambda to, folder, length: READERS[to](str(folder), checked_texts(length), length)
    )
    folder, _ = trained_run("mean", long_texts={"read": read, "overlap": 0.25})
    assert export(folder, "sentence-transformers", tmp_path / "one") < 1e-5


def test_an_encoder_without_a_pooler_says_so(trained_run, monkeypatch, capsys):
    monkeypatch.setattr(
        "poolwise.export.computed", lambda to, folder, length: READERS[to](str(folder), checked_texts(length), length)
    )
    for name, own, says in (("cls", True, True), ("cls", False, False), ("pooler", True, False)):
        folder, _ = trained_run(name, own_encoder=own)
        monkeypatch.setattr("sys.argv", ["export", str(folder), "--to", "encoder"])
        main()
        assert ("draws one at random at each load" in capsys.readouterr().out) == says


@pytest.mark.parametrize("form", [*OTHER_FORMS, pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_lines_that_say_how_it_is_used_run_as_they_are_printed(trained_run, monkeypatch, capsys, form):
    """And the check of a graph reads logits and vectors, of all texts in a batch and of each alone."""
    found = []

    def computed(to, folder, length):
        found.extend(READERS[to](str(folder), TEXTS_32, length))
        return found

    monkeypatch.setattr("poolwise.export.computed", computed)
    folder, _ = trained_run("pooler")
    monkeypatch.setattr("sys.argv", ["export", str(folder), "--to", form])
    main()
    lines = capsys.readouterr().out.partition("use it:\n")[2].strip()
    names = {}
    exec(lines, names)
    assert capsys.readouterr().out.strip()
    place = folder / "exports" / form
    assert lines.replace(str(place), "FOLDER") in (place / "README.md").read_text()
    if form == "onnx":
        trained = load(folder)
        np.testing.assert_allclose(names["logits"], trained.logits(["a text"]) / 2.0, atol=1e-5)
        np.testing.assert_allclose(names["vectors"], trained.encode(["a text"]), atol=1e-5)
        assert np.shape(found) == (len(TEXTS_32), 2 * (2 + 16))


def test_what_is_pushed_is_private_unless_it_is_said_to_be_public(tmp_path, monkeypatch):
    """The hub's client is a stand-in: there is no account here."""
    asked = []

    class Client:
        def create_repo(self, name, exist_ok, private):
            asked.append((name, exist_ok, private))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, repo_id, folder_path, delete_patterns):
            asked.append((repo_id, folder_path, delete_patterns))

        def repo_info(self, name):
            return SimpleNamespace(private=asked[-2][2])

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_of_nobody")
    monkeypatch.setattr("huggingface_hub.HfApi", Client)
    assert push(tmp_path, "me/mine") == "https://huggingface.co/me/mine, seen by you alone"
    assert push(tmp_path, "me/mine", public=True) == "https://huggingface.co/me/mine, seen by everybody"
    assert asked == [
        call for private in (True, False) for call in [("me/mine", True, private), ("me/mine", tmp_path, "*")]
    ]


def test_pushing_needs_somebody_who_is_logged_in(trained_run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        "poolwise.export.computed", lambda to, folder, length: READERS[to](str(folder), checked_texts(length), length)
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
    assert "test/accuracy 0.9900 (0.9643 to 0.9973)" in card


@pytest.mark.slow
@pytest.mark.parametrize("form", sorted(FORMS))
def test_each_form_is_checked_in_another_process_and_has_sums_of_all_its_files(trained_run, tmp_path, form):
    assert export(trained_run("pooler")[0], form, tmp_path / "one") <= FORMS[form].tolerance
    for folder in (tmp_path / "one", *filter(Path.is_dir, (tmp_path / "one").rglob("*"))):
        named = {line.split()[1] for line in (folder / SUMS_FILE).read_text().splitlines()}
        assert named == {file.name for file in folder.iterdir() if file.is_file()} - {SUMS_FILE}
        check_sums(folder)


@pytest.mark.slow
def test_a_graph_takes_any_representation_and_any_size(trained_run, tmp_path):
    for name in sorted(REPRESENTATIONS):
        assert export(trained_run(name)[0], "onnx", tmp_path / name) <= 1e-4
        assert json.loads((tmp_path / name / "tokenizer_config.json").read_text())["model_max_length"] == 32
