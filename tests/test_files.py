"""Whole writes, files that only grow, and locks."""

import multiprocessing
import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from mucode_agent.files import (
    Journal,
    append_lines,
    check_same,
    claim_file,
    hold_directory,
    lock_file,
    read_rows,
    replacing,
    write_whole,
)
from mucode_agent.types import InfrastructureError, ProblemError, Score

SCORES = TypeAdapter(Score)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "before")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", "text"])
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_replaced_keeps_its_rights(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "before")
    path.chmod(0o640)
    write_whole(path, "after")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("half", [b"", b"x", b'{"logit": 2' + b" " * 200_000])
def test_half_a_last_row_is_passed_over_and_cut_off_by_the_next_append(tmp_path, half):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"logit": 1.0}\n' + half)
    assert [row.logit for row in read_rows(path, SCORES)] == [1.0]
    journal = Journal(path, SCORES)
    journal.append([Score(logit=3.0)])
    journal.close()
    assert [row.logit for row in read_rows(path, SCORES)] == [1.0, 3.0]


def test_a_damaged_row_is_named_by_file_line_and_field(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"logit": 1.0}\n{"logit": "high"}\n')
    with pytest.raises(ProblemError, match=r"rows\.jsonl, line 2 is damaged .*: logit must be a number"):
        list(read_rows(path, SCORES))


def test_an_append_goes_behind_the_last_whole_line(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntw")
    with lock_file(path) as descriptor:
        append_lines(descriptor, b"two\n")
        append_lines(descriptor, b"three\n", sync=False)
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_directory_is_held_by_one_run_at_a_time_and_names_its_process(tmp_path):
    with hold_directory(tmp_path):
        refused = pytest.raises(ProblemError, match=rf"in use by another run \(process {os.getpid()}\)")
        with refused, hold_directory(tmp_path):
            raise AssertionError
    with hold_directory(tmp_path):
        pass


def test_a_claim_is_one_callers_and_leaves_no_file(tmp_path):
    path = tmp_path / "shard"
    with claim_file(path) as mine, claim_file(path) as theirs:
        assert (mine, theirs) == (True, False)
    assert not path.exists()
    with pytest.raises(InfrastructureError, match="cannot lock"), claim_file(tmp_path / "none" / "shard"):
        raise AssertionError


def _hold(path: Path, ready, forever) -> None:
    with claim_file(path) as mine:
        assert mine
        ready.set()
        forever.wait()


def test_what_a_killed_process_had_claimed_is_free_again(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, forever = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "shard", ready, forever))
    holder.start()
    assert ready.wait(60)
    with claim_file(tmp_path / "shard") as mine:
        assert not mine
    holder.kill()
    holder.join()
    with claim_file(tmp_path / "shard") as mine:
        assert mine


def test_what_differs_between_two_identities_is_named_field_by_field(tmp_path):
    held = {"seed": 0, "policy": {"n": 1, "model": "a"}}
    check_same(held, dict(held), tmp_path)
    with pytest.raises(ProblemError, match=r"results of another run: policy\.n was 1, now 2; give another directory"):
        check_same(held, {"seed": 0, "policy": {"n": 2, "model": "a"}}, tmp_path)
