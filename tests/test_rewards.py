"""Rewards of programs, in TRL's and verl's signatures, and two steps of a real trainer."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from documents import fits_a_screen, snippets
from fakes import BrokenSandbox, fenced
from tiny import save_tiny

from mucode_agent import LocalSandbox, ProblemError
from mucode_agent.adapters.rewards import create_reward, create_verl_reward, reward_of
from mucode_agent.runs.directory import Judgement
from mucode_agent.runs.judging import judge
from mucode_agent.types import CodeTest, InfrastructureError, Job, Limits, Problem

GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
TESTS = ["assert f(1) == 2", "assert f(0) == 0 or f(0) == 1"]


def chat(code: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": fenced(code)}]


def test_a_batch_is_rewarded_in_order_whatever_the_form_of_its_completions() -> None:
    completions = [chat(GOOD), fenced(BAD), GOOD, "I cannot.", "", [], [{"role": "assistant", "content": None}]]
    rewards = create_reward()([None] * 7, completions, tests=[TESTS] * 7, completion_ids=[[1]] * 7, trainer_state=None)
    assert rewards == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "tests",
    [
        TESTS,
        tuple(TESTS),
        json.dumps(TESTS),
        "assert f(1) == 2",
        json.dumps({"prompt": "Add one.", "public_tests": TESTS}),
        {"prompt": "Add one.", "public_tests": TESTS, "entry_point": "f", "setup": None, "private_tests": TESTS},
        {"task_id": "x/1", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(c):\n    assert c(1) == 2"},
    ],
)
def test_a_column_holds_tests_or_problems_in_any_form(tests: Any) -> None:
    assert create_reward(column="given")([1, 1], [GOOD, BAD], given=[tests, tests]) == [1.0, 0.0]


def test_programs_are_rewarded_on_what_they_print() -> None:
    tests = [{"stdin": "2\n", "stdout": "4\n"}]
    assert create_reward()([1], [fenced("print(int(input()) * 2)")], tests=[tests]) == [1.0]


def test_private_tests_of_a_problem_count() -> None:
    problem = {"prompt": "Add one.", "public_tests": ["assert f(1) == 2"], "private_tests": ["assert f(5) == 6"]}
    cheat = "def f(x):\n    return 2"
    assert create_reward(column="problem")([1], [cheat], problem=[problem]) == [0.0]


def test_a_partial_reward_is_the_share_of_tests_passed() -> None:
    reward = create_reward(partial=True)
    assert reward([1, 1, 1], [GOOD, BAD, "no program"], tests=[TESTS] * 3) == [1.0, 0.5, 0.0]


def test_what_says_nothing_about_the_program_has_no_reward() -> None:
    assert create_reward(BrokenSandbox())([1, 1], [GOOD, "none"], tests=[TESTS] * 2) == [None, 0.0]
    with contextlib.closing(LocalSandbox()) as sandbox:
        assert create_reward(sandbox)([1], [GOOD], tests=[["import nowhere\nassert f(1) == 2"]]) == [None]


WRONG = "def f(x):\n    return 1"
CHOSEN = {
    "starts a process": ("import subprocess\n" + WRONG.replace("return", "subprocess\n    return"), "assert f(1) == 2"),
    "an object that equals": ("class C:\n    def __eq__(s, o): return True\ndef f(x): return C()", "assert f(1) == 2"),
    "an object in place of a number": ("class C: pass\ndef f(x): return C()", "assert f(1) + 1 == 3"),
    "a nest": ("def f(x):\n    for _ in range(300): x = (x,)\n    return x", "assert f(1) == 2"),
    "random numbers": ("import random\ndef f(x): random.seed(x)", "import random\nassert f(random.random()) == 2"),
    "an emptied argument": ("def f(xs):\n    xs.clear()\n    return []", "xs = [3, 1]\nassert f(xs) == sorted(xs)"),
    "too many shared values": ("def f(x): return [[i] for i in range(110_000)]", "a = f(1)\nassert a[0] == 2"),
    "a short variable": ("X = [1]\ndef f(x): return X", "assert X[5] == f(1)"),
    "nothing defined": ("x = 1", "try:\n    assert f(1) == 2\nexcept NameError: pass"),
    "a value by which the test leaves": (WRONG, "import sys\nif f(1) != 2: sys.exit(1)\nassert f(1) == 2"),
    "a value by which the test skips": (WRONG, "import unittest as u\nif f(1) < 2: raise u.SkipTest\nassert f(1) == 2"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), CHOSEN.values(), ids=CHOSEN.keys())
def test_a_program_that_makes_itself_unjudged_is_rewarded_as_a_wrong_one(
    sandbox: LocalSandbox, code: str, test: str
) -> None:
    problem = Problem(prompt="p", public_tests=(CodeTest(code=test),), limits=Limits(time_s=20, output_kb=8_000))
    assert create_reward(sandbox)([1], [fenced(code)], tests=[problem.model_dump_json()]) == [0.0]
    kept: list[Judgement] = []
    asyncio.run(judge(sandbox, problem, {"p": code}, kept.extend))
    assert (kept[0].judged, kept[0].correct) == (kept[0].status != "unjudged", False)  # unjudged ones get no label


ALONE = {
    "does not compile": "assert f(1) ==",
    "lacks a package": "import nowhere\nassert f(1) == 2",
    "patches": "from unittest import mock\nwith mock.patch('random.random', lambda: 0.5): assert f(1) == 0.5",
    "asks which object a value is": "s = (1, 2)\nassert f(s) is s",
    "passes a file": "assert f(open('/dev/null')) == 2",
    "uses no program": "assert 1 == 1",
}


@pytest.mark.parametrize("test", ALONE.values(), ids=ALONE.keys())
def test_a_test_that_is_the_same_for_every_program_is_no_verdict(sandbox: LocalSandbox, test: str) -> None:
    report = sandbox.submit(Job(code="def f(x): return x", tests=(test,))).result(60)
    assert (report.status, report.judged, reward_of(report)) == ("unjudged", False, None), report


def test_a_test_that_fails_decides_beside_one_that_cannot_be_judged(sandbox: LocalSandbox) -> None:
    tests = ("s = (1, 2)\nassert f(s) is s", "assert f(1) == 2")
    assert reward_of(sandbox.submit(Job(code="def f(x): return x", tests=tests)).result(60)) == 0.0


def test_a_program_cannot_say_that_the_set_up_has_failed(sandbox: LocalSandbox) -> None:
    frame = "m = json.dumps({'setup': 'E: no'}).encode()\nos.write(3, struct.pack('>I', len(m)) + m)\nos._exit(0)"
    job = Job(code=f"import json, os, struct\n{frame}", tests=("assert f(1) == 2",), setup="import math")
    assert sandbox.submit(job).result(60).status == "early_exit"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"answers": [TESTS]}, "no column 'tests', only answers"),
        ({"tests": [["assert f(1 =="]]}, "does not parse"),
        ({"tests": [[]]}, "at least one"),
        ({"tests": ["[]"]}, "at least one"),
        ({"tests": [None]}, "at least one"),
        ({"tests": [["print(f(1))"]]}, "asserts nothing|could fail|judges nothing"),
        ({"tests": ["{broken"]}, "no JSON"),
        ({"tests": [[7]]}, "public_tests"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_refused_in_one_sentence(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        create_reward()([1], [GOOD], **columns)


def test_verls_signature_is_answered() -> None:
    score = create_verl_reward()
    info = {"entry_point": "f", "num_turns": None}
    given = {"data_source": "mbpp", "solution_str": GOOD, "ground_truth": TESTS, "extra_info": info}
    assert score(**given, reward_router_address="x") == 1.0
    with pytest.raises(InfrastructureError, match="of mbpp could not be judged"):
        create_verl_reward(BrokenSandbox())(**given)


def test_the_page_fits_a_screen_and_its_second_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(snippets("rewards.md")[1], {})
    assert capsys.readouterr().out == "1.0\n"
    assert fits_a_screen("rewards.md")


@pytest.mark.real
@pytest.mark.filterwarnings("default")
def test_a_real_trainer_takes_two_steps(tmp_path: Path) -> None:
    """The page's snippet, with a tiny random model, whose completions are no programs, and a second reward."""
    pytest.importorskip("trl", reason="pip install trl")
    base = save_tiny(tmp_path / "base")
    seen: list[tuple[int, list[float | None]]] = []
    inner = create_reward(column="tests")

    def reward(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        programs = [GOOD if i % 2 else BAD for i in range(len(completions))]  # what a better model would have written
        rewards = inner(prompts, programs, **columns)
        assert inner(prompts, completions, **columns) == [0.0] * len(completions)
        seen.append((len(completions), rewards))
        return rewards

    code = snippets("rewards.md")[0].replace("Qwen/Qwen2.5-Coder-0.5B-Instruct", str(base))
    code = code.replace('create_reward(column="tests")', "reward")
    options = (
        f'output_dir="{tmp_path}", max_steps=2, per_device_train_batch_size=4, num_generations=4, use_cpu=True, '
        'max_completion_length=8, report_to=[], save_strategy="no", logging_steps=1, learning_rate=0.1'
    )
    code = code.replace('output_dir="grpo"', options)
    page: dict[str, Any] = {"reward": reward}
    exec(code, page)
    trainer = page["trainer"]
    assert trainer.state.global_step == 2
    assert seen[0] == (4, [0.0, 1.0, 0.0, 1.0])
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert [entry["reward"] for entry in logged] == [0.5, 0.5]
    assert all(entry["grad_norm"] > 0 for entry in logged)
