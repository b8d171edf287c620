import pytest

from poolwise.words import counted, duration, first_line, nearest, roughly, signed, size, some, without_secrets


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (counted(1, "text"), "1 text"),
        (counted(18000, "text"), "18,000 texts"),
        (duration(0.4), "0 s"),
        (duration(59.4), "59 s"),
        (duration(59.6), "1 min 0 s"),
        (duration(439.0), "7 min 19 s"),
        (duration(3599.7), "1 h 0 min"),
        (duration(11100.0), "3 h 5 min"),
        (roughly(2.0), "about 5 s"),
        (roughly(48.0), "about 50 s"),
        (roughly(58.0), "about 1 min"),
        (roughly(439.0), "about 7 min"),
        (roughly(3590.0), "about 1 h"),
        (roughly(11400.0), "about 3 h 10 min"),
        (size(200), "1 MB"),
        (size(90_868_376), "91 MB"),
        (size(1_300_000_000), "1.3 GB"),
        (nearest("epoch", ["epochs", "seed"]), " (did you mean epochs?)"),
        (nearest("x", ["epochs", "seed"]), ""),
        (some([2, 7]), "2, 7"),
        (some(range(17)), "0, 1, 2, 3, 4 and 12 more"),
        (first_line(ValueError("\n  one\ntwo")), "one"),
    ],
)
def test_words(said, words):
    assert said == words


def test_no_key_or_password_is_said_wherever_it_stands(monkeypatch, tmp_path):
    for name, value in {
        "A_KEY": "qqqq1234",
        "B_TOKEN": "qqqq12345678",
        "SMTP_PASS": "opensesame",
        "GH_PAT": "gh_9876543",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "HF_HOME", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123456789abcdef\n")
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/token").write_text("hf_zzzzzzzz\n")
    said = "qqqq12345678 qqqq1234 opensesame gh_9876543 0123456789abcdef hf_zzzzzzzz postgres://me:pw@host/db"
    told = "[B_TOKEN] [A_KEY] [SMTP_PASS] [GH_PAT] [netrc] [token of the hub] postgres://[password]@host/db"
    assert without_secrets(said) == told


def test_a_difference_has_a_sign_and_is_never_minus_nothing():
    assert [signed(points) for points in (1.24, -1.25, 0.04, -0.04)] == ["+1.2", "-1.2", "+0.0", "+0.0"]
