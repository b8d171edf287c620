import io
import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from transformers import BertModel

import poolwise
from helpers import TEXTS
from poolwise.predict import main as predict
from poolwise.predict import write
from poolwise.settings import UserError
from poolwise.trained import MODEL_FOLDER, NOTES_FILE, WEIGHTS_FILE, Prediction, fitted_temperature, load, place_from

LONG = " ".join(TEXTS) * 2


@pytest.mark.parametrize("name", ["cls", "pooler", "mean", "cls_linear", "layer_mix"])
def test_what_is_loaded_computes_what_was_saved(trained_run, tokenizer, name):
    folder, classifier = trained_run(name)
    found = load(folder)
    rows = tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    batch = {key: rows[key] for key in ("input_ids", "attention_mask")} | {"windows": [1] * len(TEXTS)}
    with torch.no_grad():
        vectors = classifier.eval().vectors(batch)
        logits = classifier.logits(vectors)
    np.testing.assert_allclose(found.encode(TEXTS), vectors, atol=1e-5)
    np.testing.assert_allclose(found.logits(TEXTS), logits, atol=1e-5)
    predictions = found.predict(TEXTS)
    assert [each.text for each in predictions] == TEXTS
    assert [each.label for each in predictions] == [["bad", "good"][row.argmax()] for row in logits]
    calibrated = (logits / 2.0).softmax(dim=1)
    np.testing.assert_allclose([list(each.probabilities.values()) for each in predictions], calibrated, atol=1e-5)


def test_a_text_is_the_same_alone_and_among_others(trained_run):
    found = load(trained_run("mean")[0])
    alone = np.concatenate([found.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(found.encode(TEXTS), alone, atol=1e-5)
    assert found.encode([]).shape == (0, 16)


def test_long_texts_are_read_in_windows_if_they_were_in_training(trained_run):
    head = load(trained_run("mean")[0])
    windows = load(trained_run("mean", long_texts={"read": "windows", "overlap": 0.0})[0])
    assert np.abs(windows.encode([LONG]) - head.encode([LONG])).max() > 1e-3
    np.testing.assert_allclose(windows.encode(TEXTS[:2]), head.encode(TEXTS[:2]), atol=1e-6)


def test_other_representations_read_the_same_encoder(trained_run):
    of_pooler, of_cls = load(trained_run("pooler")[0]), load(trained_run("cls")[0])
    np.testing.assert_allclose(of_pooler.encode(TEXTS, repr="cls"), of_cls.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(of_pooler.encode(TEXTS, repr="pooler"), of_pooler.encode(TEXTS), atol=1e-6)
    with pytest.raises(UserError, match="repr=pooler: allowed with this run, beside its own cls: cls, mean, ") as told:
        of_cls.encode(TEXTS, repr="pooler")
    told = str(told.value)
    assert "This run kept no pooler: fine-tuning of another representation drops it, as no loss reached it, and" in told
    assert told.endswith("so does a run that keeps a frozen encoder of its own; use a run of repr=pooler")
    with pytest.raises(UserError, match="repr=cls_linear: allowed"):
        of_cls.encode(TEXTS, repr="cls_linear")


def test_an_encoder_that_stage_2_left_as_it_was_is_found_where_it_lies(trained_run, tmp_path):
    expected = load(trained_run("mean")[0]).encode(TEXTS)
    folder, _ = trained_run("mean", own_encoder=False)
    assert not (folder / MODEL_FOLDER / "encoder").exists()
    np.testing.assert_allclose(load(folder).encode(TEXTS), expected, atol=1e-6)
    notes = json.loads((folder / MODEL_FOLDER / NOTES_FILE).read_text())
    assert notes["encoder"] == "mlm/stage1/export"  # moves with the folder of runs
    config = folder.parent.parent / notes["encoder"] / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-2'))
    with pytest.raises(UserError, match=r"is not the encoder that .* was trained on: its weights have changed since"):
        load(folder)


def test_an_encoder_of_the_hub_or_elsewhere_keeps_its_name(tmp_path):
    run = tmp_path / "runs" / "sentiment" / "a"
    assert place_from("google-bert/bert-base-uncased", run) == "google-bert/bert-base-uncased"
    elsewhere = tmp_path / "encoders" / "one"
    elsewhere.mkdir(parents=True)
    assert place_from(str(elsewhere), run) == str(elsewhere)


def test_runs_without_a_classifier_are_told_why(tmp_path, trained_run):
    with pytest.raises(UserError, match="there is no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not the folder of a run"):
        load(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps({"key": "k", "stage": "mlm", "status": "finished"}))
    with pytest.raises(UserError, match="a run of stage 1"):
        load(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps({"key": "k", "stage": "sentiment", "status": "failed"}))
    with pytest.raises(UserError, match="this run is failed"):
        load(tmp_path)
    for config, reason in (({}, "of an earlier poolwise"), ({"keep_model": False}, "had keep_model=false")):
        record = {"key": "k", "stage": "sentiment", "status": "finished", "config": config}
        (tmp_path / "record.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=rf"{reason}; delete its record\.json"):
            load(tmp_path)
    folder, _ = trained_run("cls")
    weights = folder / MODEL_FOLDER / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="is not what was written there, by SHA256SUMS"):
        load(folder)
    (folder / MODEL_FOLDER / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="does not fit this classifier"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("representation", value) for value in (None, "cls", {}, {"name": "no"}, {"name": "cls", "layer": "x"})),
        *(("label_names", value) for value in (5, None, [1, 2], ["one"], ["a", "a"])),
        *(("temperature", value) for value in (None, "x", 0.0, -1.0, float("nan"))),
        *(("max_length", value) for value in (-1, None, "32")),
        *(("long_texts", value) for value in (None, {"read": "middle"}, {"read": "head", "overlap": 2.0})),
        *(("encoder", value) for value in (3, ["a"], "a" * 5000)),
        ("no_such_name", 1),
    ],
)
def test_notes_that_cannot_be_right_are_told(trained_run, name, value):
    folder, _ = trained_run("cls")
    file = folder / MODEL_FOLDER / NOTES_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(UserError, match=r"classifier.json is not as stage 2 writes it"):
        load(folder)


def test_an_encoder_outside_of_the_folder_of_runs_is_named_in_full_or_not_read(trained_run, tmp_path):
    folder, _ = trained_run("cls", own_encoder=False)
    (tmp_path / "elsewhere").mkdir()
    file = folder / MODEL_FOLDER / NOTES_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"encoder": "../elsewhere"}))
    (folder / MODEL_FOLDER / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="lies outside of"):
        load(folder)


def test_half_a_character_is_told(trained_run):
    with pytest.raises(UserError, match="text 2 is not valid Unicode"):
        load(trained_run("cls")[0]).predict(["Dull.", "bad \ud800"])


def test_texts_are_a_list_of_strings(trained_run):
    found = poolwise.load(trained_run("cls")[0])
    with pytest.raises(TypeError, match="a list of texts is needed"):
        found.predict("Dull.")
    with pytest.raises(TypeError):
        found.predict(["Dull.", None])


def test_the_temperature_minimises_the_cross_entropy():
    generator = np.random.default_rng(0)
    true = generator.normal(size=(4000, 3))
    labels = np.array([generator.choice(3, p=np.exp(row)) for row in log_softmax(true, axis=1)])
    assert fitted_temperature(true, labels) == pytest.approx(1.0, abs=0.1)
    assert fitted_temperature(true * 4, labels) == pytest.approx(4.0, abs=0.4)


@pytest.mark.parametrize("texts", [30, 60])
def test_few_dev_texts_without_a_mistake_make_no_probability_extreme(texts):
    """Logits that are calibrated as they are: a temperature of few texts must not be worse than none on others."""
    generator = np.random.default_rng(1)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        rows = log_softmax(generator.normal(scale=4.0, size=(count, 2)), axis=1)
        return rows, np.array([generator.choice(2, p=np.exp(row)) for row in rows])

    others, wanted = draw(4000)

    def cross_entropy(temperature: float) -> float:
        return float(-log_softmax(others / temperature, axis=1)[np.arange(len(wanted)), wanted].mean())

    worse = []
    for _ in range(40):
        rows, labels = draw(texts)
        worse.append(cross_entropy(fitted_temperature(rows, labels)) - cross_entropy(1.0))
        without_mistakes = fitted_temperature(rows, rows.argmax(axis=1))
        assert 0.3 < without_mistakes < 3.0
    assert np.mean(worse) < 2 / texts


def test_loading_says_nothing(trained_run, capfd):
    folder, _ = trained_run("pooler")
    capfd.readouterr()  # of transformers, which wrote it
    load(folder)
    assert capfd.readouterr() == ("", "")


def test_a_frozen_encoder_still_has_its_pooler(trained_run, tokenizer):
    """The run reads cls; the encoder beside it is as stage 1 left it, and has a pooler. One of its own has none."""
    found = load(trained_run("cls", own_encoder=False)[0])
    body = BertModel.from_pretrained(found.folder.parents[1] / "mlm/stage1/export").eval()
    rows = tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        expected = body(rows["input_ids"], rows["attention_mask"]).pooler_output
    np.testing.assert_allclose(found.encode(TEXTS, repr="pooler"), expected, atol=1e-5)
    with pytest.raises(UserError, match="repr=pooler: allowed with this run"):
        load(trained_run("mean")[0]).encode(TEXTS, repr="pooler")


def test_a_frozen_encoder_without_a_pooler_is_told(trained_run, config, tokenizer, tmp_path):
    shared = tmp_path / "runs/mlm/stage1/export"
    BertModel(config, add_pooling_layer=False).save_pretrained(shared)
    tokenizer.save_pretrained(shared)
    with pytest.raises(UserError, match=f"repr=pooler: allowed with .*The encoder {shared} has no pooler"):
        load(trained_run("cls", own_encoder=False)[0]).encode(TEXTS, repr="pooler")


def run_predict(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
    try:
        predict()
    except SystemExit as leaving:
        return leaving.code
    return 0


def test_predict_reads_arguments_files_and_standard_input(trained_run, monkeypatch, capsys, tmp_path):
    folder, _ = trained_run("cls")
    expected = [each.label for each in load(folder).predict(TEXTS)]
    file = tmp_path / "reviews.csv"
    file.write_text("id,review\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(TEXTS)))

    def labels():
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["text"] for row in rows] == TEXTS
        assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in rows)
        return [row["label"] for row in rows]

    assert run_predict(monkeypatch, folder, *TEXTS, "--jsonl") == 0
    assert labels() == expected
    assert run_predict(monkeypatch, folder, "--file", file, "--jsonl") == 0
    assert labels() == expected
    given = "".join(text + "\n" for text in TEXTS).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert run_predict(monkeypatch, folder, "--jsonl") == 0
    assert labels() == expected
    monkeypatch.setenv("COLUMNS", "160")
    assert run_predict(monkeypatch, folder, *TEXTS) == 0
    head, _, *rows = (line.split() for line in capsys.readouterr().out.strip().splitlines())
    assert head == ["text", "label", "bad", "good"]
    for row, each in zip(rows, load(folder).predict(TEXTS), strict=True):
        assert row == [*each.text.split(), each.label, *(f"{value:.3f}" for value in each.probabilities.values())]


def test_predict_keeps_to_the_cores_that_a_container_may_use(trained_run, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("poolwise.machine._threads_at_first", lambda: 3)
    try:
        assert run_predict(monkeypatch, trained_run("cls")[0], *TEXTS) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_a_long_text_takes_one_line_of_predicts_table(trained_run, monkeypatch, capsys):
    folder, _ = trained_run("cls")
    monkeypatch.setenv("COLUMNS", "60")
    assert run_predict(monkeypatch, folder, "lovely\nfilm " * 50) == 0
    _, _, row = capsys.readouterr().out.strip().splitlines()
    words, _, probability = row.split("…")[0], *row.split("…")[1].split()[:2]
    assert words.strip().startswith("lovely film lovely film")
    assert 0 < float(probability) < 1


@pytest.mark.parametrize(
    ("count", "head"),
    [(3, ["text", "label", "class_0", "class_1", "class_2"]), (8, ["text", "label", "probability"])],
)
def test_many_classes_leave_room_for_the_text_in_predicts_table(monkeypatch, capsys, count, head):
    monkeypatch.setenv("COLUMNS", "80")
    probabilities = {f"class_{number}": 0.5 if number == 2 else 0.5 / (count - 1) for number in range(count)}
    write([Prediction("a lovely film, and so well played " * 3, "class_2", probabilities)], as_json=False)
    names, _, row = capsys.readouterr().out.strip().splitlines()
    assert names.split() == head
    assert row.strip().startswith("a lovely film, and so w")
    assert row.split("…")[1].split() == ["class_2", *(f"{probabilities.get(name, 0.5):.3f}" for name in head[2:])]


def test_predict_tells_mistakes_without_a_traceback(trained_run, monkeypatch, capsys, tmp_path):
    folder, _ = trained_run("cls")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\nna\xefve\n")))
    assert run_predict(monkeypatch, folder) == 2
    assert "standard input, line 2: not UTF-8 (byte 0xef)" in capsys.readouterr().err
    assert run_predict(monkeypatch, folder, "a", "--file", "b.txt") == 2
    assert run_predict(monkeypatch, folder, "a", "--column", "b") == 2
    assert run_predict(monkeypatch, folder, "--file", tmp_path / "no.csv") == 2
    assert run_predict(monkeypatch, tmp_path, "a") == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["poolwise"] * 4
