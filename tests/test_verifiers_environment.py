"""The environment of examples/verifiers_environment inside verifiers' own loader, scoring and `vf-validate`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import fenced

pytest.importorskip("verifiers", reason="pip install verifiers")
pytestmark = pytest.mark.filterwarnings("default")  # the package's own

HOME = Path(__file__).parents[1] / "examples/verifiers_environment"
sys.path.insert(0, str(HOME))
import verifiers.v1 as vf  # noqa: E402
from verifiers.v1.trace import Trace, TraceTask  # noqa: E402
from verifiers.v1.utils.loaders import taskset_class, taskset_config_type  # noqa: E402

GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
PROBLEM = {
    "id": "inc",
    "prompt": "Add one.",
    "entry_point": "f",
    "public_tests": ["assert f(1) == 2"],
    "private_tests": ["assert f(41) == 42"],
    "reference": GOOD,
}


def tasks(directory: Path, **changes: Any) -> list[Any]:
    (directory / "problems.jsonl").write_text(json.dumps({**PROBLEM, **changes}) + "\n")
    config = taskset_config_type("mucode_programs")(id="mucode_programs", problems=f"jsonl:{directory}/problems.jsonl")
    return list(taskset_class("mucode_programs")(config))


async def reward(task: Any, reply: str) -> float:
    recorded = TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    agent: Any = vf.AgentInfo(config=vf.AgentConfig(), name="scripted")
    trace: Any = Trace(task=recorded, agent=agent, root_reply=reply)
    await task.score(trace)
    return float(trace.reward)


async def test_a_reply_is_rewarded_on_all_tests_and_the_model_sees_the_prompt_alone(tmp_path: Path) -> None:
    [task] = tasks(tmp_path)
    assert task.data.idx == 0
    assert "41" not in task.data.prompt_text
    replies = [fenced(GOOD), fenced(BAD), "I cannot.", fenced("def f(x):\n    return 2")]
    assert [await reward(task, reply) for reply in replies] == [1.0, 0.0, 0.0, 0.0]


async def test_what_cannot_be_judged_is_an_error_and_no_reward(tmp_path: Path) -> None:
    [task] = tasks(tmp_path, private_tests=["import nowhere\nassert f(1) == 2"], reference=None)
    with pytest.raises(vf.TaskError, match="inc could not be judged"):
        await reward(task, fenced(GOOD))


def test_the_packages_own_command_checks_the_references(tmp_path: Path) -> None:
    references = {"right": GOOD, "wrong": BAD, "none": None}
    rows = [json.dumps({**PROBLEM, "id": name, "reference": code}) for name, code in references.items()]
    (tmp_path / "problems.jsonl").write_text("\n".join(rows))
    words = ["mucode_programs", "--taskset.problems", "jsonl:problems.jsonl", "--only-gold", "-o", "out"]
    words += ["--runtime.type", "subprocess"]
    paths = os.pathsep.join([str(HOME), str(HOME.parents[1])])
    done = subprocess.run(
        [Path(sys.executable).with_name("vf-validate"), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for path in tmp_path.rglob("results.jsonl") for line in path.read_text().splitlines()]
    assert sorted(row["reason"] for row in found) == ["invalid", "unchecked", "valid"], done.stdout + done.stderr
