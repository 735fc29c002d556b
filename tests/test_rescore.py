"""Stored traces scored by another verifier, and written as harbor's trajectories."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import LengthVerifier
from test_export import ALSO, RIGHT, WRONG, answers
from typer.testing import CliRunner

from mucode_agent.cli.app import app
from mucode_agent.training.atif import atif
from mucode_agent.training.data import stream_traces
from mucode_agent.training.rescore import quality, rescored
from mucode_agent.types import ProblemError

LONGER = WRONG + "  # " + "long " * 20


@pytest.fixture(scope="module")
def turns_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trajectories of two candidates a turn: wrong and longer wrong, then right and longer wrong; both right."""
    return answers(
        tmp_path_factory.mktemp("traces") / "run", WRONG, LONGER, RIGHT, LONGER, RIGHT, ALSO, per_problem=2, n=2
    )


def test_a_verifier_is_measured_on_what_it_would_have_selected(turns_of_two: Path) -> None:
    turns = list(rescored(stream_traces([turns_of_two]), LengthVerifier()))
    assert [[row.correct for row in turn] for turn in turns] == [[False, False], [True, False], [True, True]]
    assert [[row.index for row in turn] for turn in turns] == [[0, 1]] * 3
    found = quality(turns, "length")
    assert (found.selected.value, found.random.value, found.oracle.value) == pytest.approx((1 / 3, 0.5, 2 / 3))
    assert (found.pairwise_accuracy, found.programs, found.problems) == (0.0, 6, 1)


def test_the_command_tells_and_writes_every_score(turns_of_two: Path, tmp_path: Path) -> None:
    words = ["traces", "score", str(turns_of_two), "--verifier", "evidence", "--out", str(tmp_path / "scores.jsonl")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "6 programs of 1 problems, 3 turns" in done.stdout
    assert "oracle     66.7 %" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(0 <= row["probability"] <= 1 for row in rows)
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["programs"] == 6


def test_traces_without_a_choice_are_refused(tmp_path: Path) -> None:
    directory = answers(tmp_path / "run", WRONG, RIGHT)
    with pytest.raises(ProblemError, match="no turn here has two judged programs"):
        quality(rescored(stream_traces([directory]), LengthVerifier()), "length")


def test_a_solve_is_a_trajectory_of_turns(turns_of_two: Path) -> None:
    first, second = atif(stream_traces([turns_of_two]))
    assert [step["source"] for step in first["steps"]] == ["user", "agent", "user", "agent"]
    assert [step["step_id"] for step in first["steps"]] == [1, 2, 3, 4]
    assert RIGHT in first["steps"][3]["message"]
    assert "assert" in first["steps"][2]["message"]
    assert (first["extra"]["solved"], first["extra"]["correct"]) == (True, True)
    assert first["final_metrics"]["total_completion_tokens"] == 20
    assert first["steps"][1]["metrics"]["completion_tokens"] == 10
    assert [step["source"] for step in second["steps"]] == ["user", "agent"]


def test_private_tests_stand_in_no_trajectory(turns_of_two: Path) -> None:
    [(entry, _)] = stream_traces([turns_of_two])
    assert entry.problem.private_tests
    exported = json.dumps(list(atif(stream_traces([turns_of_two]))))
    assert not any(json.dumps(test.code)[1:-1] in exported for test in entry.problem.private_tests)


def test_harbors_own_models_read_the_trajectories(turns_of_two: Path, tmp_path: Path) -> None:
    models: Any = pytest.importorskip("harbor.models.trajectories", reason="pip install harbor, on Python 3.12")
    words = ["traces", "export", str(turns_of_two), "--format", "atif", "--out", str(tmp_path / "atif.jsonl")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for line in (tmp_path / "atif.jsonl").read_text().splitlines():
        assert len(models.Trajectory.model_validate_json(line).steps) in (2, 4)
