"""Our task, scorer and solver inside inspect_ai's own `eval`, with its mock model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import fits_a_screen, snippets
from fakes import fenced
from openai_server import serve

inspect_ai = pytest.importorskip("inspect_ai", reason="pip install 'mucode-agent[inspect]'")
pytestmark = pytest.mark.filterwarnings("default")  # the package's own

from inspect_ai.model import ModelOutput, ModelUsage, get_model  # noqa: E402

from mucode_agent.adapters.inspect_task import mucode, programs  # noqa: E402

GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
PROBLEM = {
    "id": "inc",
    "prompt": "Add one.",
    "entry_point": "f",
    "public_tests": ["assert f(1) == 2"],
    "private_tests": ["assert f(41) == 42"],
}


def mock(*replies: str) -> Any:
    outputs = [ModelOutput.from_content("mockllm/model", reply) for reply in replies]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=10, output_tokens=5, total_tokens=15)  # else counted by a download
    return get_model("mockllm/model", custom_outputs=outputs, memoize=False)


@pytest.fixture
def task_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)  # where Inspect writes its logs

    def make(*problems: dict[str, Any]) -> Any:
        Path("problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        return programs("jsonl:problems.jsonl")

    return make


def run(task: Any, model: Any, **options: Any) -> Any:
    [log] = inspect_ai.eval(task, model=model, display="none", **options)
    assert log.status == "success", log.error
    return log


@pytest.mark.parametrize(
    ("reply", "value"),
    [(fenced(GOOD), "C"), (fenced(BAD), "I"), ("I cannot.", "I"), (fenced("def f(x):\n    return 2"), "I")],
)
def test_the_scorer_judges_the_program_on_all_tests(task_of: Any, reply: str, value: str) -> None:
    log = run(task_of(PROBLEM), mock(reply))
    [sample] = log.samples
    assert sample.scores["sandbox_tests"].value == value
    assert log.results.scores[0].metrics["accuracy"].value == (value == "C")
    assert "41" not in sample.input


def test_what_cannot_be_judged_is_unscored(task_of: Any) -> None:
    problem = {**PROBLEM, "private_tests": ["import nowhere\nassert f(1) == 2"]}
    log = run(task_of(problem), mock(fenced(GOOD)))
    assert log.results.scores[0].unscored_samples == 1


def test_the_solver_draws_from_the_evaluated_model_and_never_shows_it_private_tests(task_of: Any) -> None:
    log = run(task_of(PROBLEM), mock(fenced(BAD), fenced(GOOD)), solver=mucode(n=1, max_turns=2))
    [sample] = log.samples
    assert sample.scores["sandbox_tests"].value == "C"
    assert (sample.metadata["mucode"]["solved"], sample.metadata["mucode"]["turns"]) == (True, 2)
    asked = [event.input for event in sample.events if event.event == "model"]
    assert len(asked) == 2
    assert "41" not in str(asked)


def test_the_page_says_what_is_true(task_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    task_of({**PROBLEM, "entry_point": None, "public_tests": ["assert inc(1) == 2"], "private_tests": []})
    model = mock(*[fenced("def inc(x):\n    return x + 1")] * 5)
    [code] = snippets("inspect.md")
    exec(code.replace('"openai/gpt-4o-mini"', 'model, display="none"'), {"model": model})
    assert capsys.readouterr().out.splitlines()[-2:] == ["1.0 1.0", "C"]
    assert fits_a_screen("inspect.md")


def test_inspects_command_finds_them_by_name(task_of: Any) -> None:
    task_of(PROBLEM)
    with serve([fenced(GOOD)]) as server:
        words = ["mucode_agent/programs", "-T", "problems=jsonl:problems.jsonl", "--solver", "mucode_agent/mucode"]
        words += ["-S", "n=1", "-S", f"model=openai:scripted@{server.url}", "--model", "mockllm/model"]
        command = [sys.executable, "-m", "inspect_ai", "eval", *words, "--display", "plain"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy" in done.stdout
    assert "1.000" in done.stdout
