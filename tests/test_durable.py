import os
import time

from poolwise import durable
from poolwise.durable import ABANDONED_SECONDS, draft_beside, draft_of, is_found_whole, sealed_draft_of


def test_two_processes_of_one_number_write_no_draft_of_each_other(tmp_path):
    """As those of two containers that share a folder are."""
    file = tmp_path / "tokens.arrow"
    with draft_of(file) as first, draft_of(file) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.arrow"]


def test_drafts_that_a_killed_process_left_long_ago_are_removed(tmp_path):
    file = tmp_path / "states"
    recent, old, folder, other = (tmp_path / f"{name}.draft" for name in ("states.1", "states.2", "states.3", "rows.1"))
    for draft in (recent, old, other):
        draft.write_text("half")
    folder.mkdir()
    (folder / "cls.npy").write_text("half")
    long_ago = time.time() - ABANDONED_SECONDS - 60
    for draft in (old, folder, other):
        os.utime(draft, (long_ago, long_ago))
    assert draft_beside(file).parent == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.1.draft", "states.1.draft"]


def test_a_file_that_does_not_change_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "tokens.ids"
    assert not is_found_whole(file)
    with sealed_draft_of(file) as draft:
        draft.write_bytes(b"kept")
    read = []
    is_whole = durable.is_whole
    monkeypatch.setattr(durable, "is_whole", lambda path: read.append(path) or is_whole(path))
    assert is_found_whole(file)
    assert is_found_whole(file)
    assert read == [file]
    damaged = file.read_bytes()[:-1] + b"\0"
    file.write_bytes(damaged)
    os.utime(file, (0, 0))  # a clock that ticks seldom would not tell these writes apart
    assert not is_found_whole(file)
    assert read == [file, file]
