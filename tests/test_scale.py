"""The figures of docs/scale.md: what the script prints, and constants that rollouts give."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from rollout_victim import rollouts

from mucode_agent.training.data import read_attempts

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "scale.py"


def test_the_document_shows_what_the_script_prints():
    printed = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True).stdout

    table = printed.partition("\n\n")[0]
    assert table.count("\n") > 10
    assert table in (ROOT / "docs" / "scale.md").read_text()


def test_constants_are_those_of_the_rollouts_given(tmp_path):
    rollouts(tmp_path / "run")

    measured = runpy.run_path(str(SCRIPT))["measure"]([tmp_path / "run"])

    attempts = [attempt for entry in read_attempts([tmp_path / "run"]) for attempt in entry.attempts]
    first = [attempt for attempt in attempts if attempt.candidate.turn == 1]
    tokens = sum(attempt.candidate.sample.completion_tokens for attempt in attempts)
    assert measured.completion_tokens == tokens / len(attempts)
    assert measured.failing[0] == sum(not attempt.correct for attempt in first) / len(first)
    size = sum(path.stat().st_size for path in tmp_path.glob("run/shards/*/*.json"))
    assert abs(size / len(attempts) - measured.text_bytes - measured.other_bytes) < 1
    assert 0 < measured.packed < 1


def test_a_need_grows_with_problems_and_turns_as_trajectories_do():
    scale = runpy.run_path(str(SCRIPT))
    needs, mbpp = scale["needs"], scale["MBPP"]

    one = needs(1000, 10, 1, mbpp, 100.0)
    three = needs(1000, 10, 3, mbpp, 100.0)

    assert (one.trajectories, one.replies, one.completion_tokens) == (10_000, 10_000, 1_000_000)
    assert one.prompt_tokens == 10_000 * mbpp.task_tokens
    assert three.replies == pytest.approx(10_000 * (1 + mbpp.failing[0] * (1 + mbpp.failing[1])))
    assert needs(2000, 10, 3, mbpp, 100.0).replies == 2 * three.replies
    assert three.executions == pytest.approx(three.replies * (1 + mbpp.judged))
