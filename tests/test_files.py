"""Files that outlive a crash: nothing half written is read or kept, and a refusal is one sentence."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from mucode_agent.files import Journal, append_lines, claimed, hold, read_card_file, read_rows, replacing, write_whole
from mucode_agent.types import ProblemError, Score

SCORES = TypeAdapter(Score)


def logits(path: Path) -> list[float]:
    return [row.logit for row in read_rows(path, SCORES)]


def test_half_a_last_line_is_passed_over_by_readers_and_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path, SCORES).append([Score(logit=1.0)])
    with path.open("ab") as file:
        file.write(b'{"logit": 2')
    assert logits(path) == [1.0]
    journal = Journal(path, SCORES)
    journal.append([Score(logit=3.0)])
    assert logits(path) == [1.0, 3.0]
    assert [row.logit for row in journal.rows] == [1.0, 3.0]


def test_rows_of_a_newer_version_are_read_without_their_new_fields(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"logit": 1.0, "invented_later": true}\n')
    assert logits(path) == [1.0]


def test_a_damaged_row_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"logit": 1.0}\n{"logit": "high"}\n')
    with pytest.raises(ProblemError, match=r"rows\.jsonl, line 2 is damaged or of another version: logit: "):
        Journal(path, SCORES)
    assert path.read_text().count("\n") == 2


def test_lines_are_never_appended_to_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, no line end")
    with pytest.raises(OSError, match="another kind") as refused:
        append_lines(path, b'{"kind":1}\n', opening=b'{"kind":')
    assert refused.value.errno == errno.EINVAL
    assert path.read_text() == "my notes, no line end"


def test_a_file_that_is_replaced_in_vain_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    write_whole(path, "old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_rights_of_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "whole", "text")
    (tmp_path / "plain").write_text("text")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("whole", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("name", ["folder", "missing/file", "/dev/null"])
def test_a_path_that_cannot_be_written_is_the_callers_mistake(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ProblemError, match=r"cannot write .*; give (another path|a path in a writable directory)"):
        write_whole(tmp_path / name, "text")


def test_a_second_process_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from mucode_agent.files import claimed\nwith claimed(pathlib.Path(sys.argv[1])): pass"
    )
    with claimed(tmp_path):
        second = subprocess.run(  # noqa: S603
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )
    assert f"is in use by another run (process {os.getpid()})" in second.stderr
    with claimed(tmp_path):
        pass


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        assert hold(first, wait=False)
        assert not hold(second, wait=False)
        os.close(first)
        assert hold(second, wait=False)
    finally:
        os.close(second)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"logit": NaN}', '{"logit": 1, "odd": 2}', "\x00"])
def test_a_card_that_cannot_be_read_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    assert read_card_file(path, Score, "score", "make it again") is None
    path.write_text(text)
    with pytest.raises(ProblemError, match=r"card\.json is no score: .*; make it again$") as refused:
        read_card_file(path, Score, "score", "make it again")
    assert "\n" not in str(refused.value)
