"""Inputs on which candidates are compared: where they come from, and what programs did on them."""

import ast
import contextlib
import random
from typing import Any

import pytest

from mucode_agent.probes import calls_in, mutated, probes, shown_calls
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import CodeTest, Job, Limits, Problem, StdioTest


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (">>> f(1, [2, 3])\n6", ["f(1, [2, 3])"]),
        ("assert f('a)b', k={'x': None}) == 1", ["f('a)b', k={'x': None})"]),
        ("f(-1) and f( -1 ) again", ["f(-1)"]),
        ("def f(x): ...\nf(x)\nf(__import__('os').system('true'))", []),
        ("self.f(1) of(2) f_(3) g(f(4))", ["f(4)"]),
        ("f().g(1)", ["f().g(1)"]),
        ("class f(object): ...", []),
        ("f(" + "(" * 1000, []),
        ("f(*[1])", []),
        ("f(**{'a': 1})", []),
        ("f(" + "9" * 3000 + ")", []),
        ("f('\ud800')", []),
    ],
)
def test_inputs_are_literal_calls_only(text: str, calls: list[str]) -> None:
    assert calls_in(text, "f") == calls


def problem(prompt: str = "Do it.", *tests: str, entry_point: str | None = "f") -> Problem:
    return Problem(prompt=prompt, entry_point=entry_point, public_tests=tuple(CodeTest(code=test) for test in tests))


def test_the_arguments_of_public_tests_become_probes_and_their_results_do_not() -> None:
    given = problem("Do it.", "assert f(3, y='a') == 99", "def check(candidate):\n    assert candidate([1]) == [98]")
    assert shown_calls(given) == ["f(3, y='a')", "f([1])"]
    assert not any("99" in probe or "98" in probe for probe in probes(given, count=2))


def test_private_tests_and_the_reference_never_become_probes() -> None:
    secret = problem("Do it.", "assert f(1) == 2").model_copy(
        update={
            "private_tests": (CodeTest(code="assert f(41414141) == 1"),),
            "reference": "def f(a, b, c): f(41414141)",
        }
    )
    assert probes(secret) == probes(secret.public())
    assert "41414141" not in str(probes(secret))


def test_a_method_is_called_on_its_class() -> None:
    assert shown_calls(problem("Do it.", "assert Solution().f(n=3) == 1", entry_point="Solution")) == [
        "Solution().f(n=3)"
    ]
    codes = ["class Solution:\n    def helper(self, x: int, s: str) -> int:\n        return x"]
    found = probes(problem(entry_point="Solution"), codes)
    assert found
    assert all(probe.startswith("Solution().helper(") for probe in found)


def test_the_same_problem_and_programs_give_the_same_probes() -> None:
    for given in (problem("f(1, 'a')"), problem("def f(a: int, b: str) -> int:")):
        assert probes(given) == probes(given)
        assert len(set(probes(given))) == len(probes(given)) == 24


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        ("int", int),
        ("List[int]", list),
        ("Optional[str]", str),
        ("Dict[str, int]", dict),
        ("list[tuple[int, int]]", list),
        ("bool", bool),
        ("float", float),
        ("Set[int]", set),
    ],
)
def test_a_signature_in_the_prompt_gives_values_of_its_types(annotation: str, kinds: type) -> None:
    for probe in probes(problem(f"from typing import *\n\ndef f(x: {annotation}) -> int:\n    '''Do it.'''")):
        call = ast.parse(probe, mode="eval").body
        assert isinstance(call, ast.Call)
        assert type(ast.literal_eval(call.args[0])) is kinds


def test_the_signature_that_most_candidates_share_decides_where_the_prompt_has_none() -> None:
    codes = ["def f(a): return a", "def f(a, b): return a", "def f(x, y, z=1): return x", "not a program("]
    found = [ast.parse(probe, mode="eval").body for probe in probes(problem(), codes)]
    assert found
    assert all(isinstance(call, ast.Call) and len(call.args) == 2 for call in found)


def test_nothing_to_go_by_gives_no_probes() -> None:
    assert probes(problem()) == ()
    assert probes(problem(), ["def g(x): return x", "def f(): return 1", ""]) == ()
    assert probes(problem(entry_point=None)) == ()
    assert probes(problem("f(1)"), count=0) == ()


def test_programs_get_changed_inputs_of_the_shown_examples() -> None:
    given = Problem(prompt="Sum.", public_tests=(StdioTest(stdin="3\n1 2 3\n", stdout="6\n"),))
    found = probes(given)
    assert found[0] == "3\n1 2 3\n"
    assert len(found) > 10
    assert all(probe.count("\n") == 2 for probe in found)


@pytest.mark.parametrize(
    "value",
    [
        5,
        -2,
        0,
        True,
        2.5,
        "",
        "abc",
        b"ab",
        [],
        [1, [2, "x"]],
        (1, 2),
        {1, 2},
        {"a": [1]},
        {},
        frozenset({1}),
        None,
        1j,
    ],
)
def test_a_mutation_keeps_the_type(value: Any) -> None:
    chance = random.Random(0)
    for _ in range(50):
        assert type(mutated(value, chance)) is type(value)


# --- what programs do on them --------------------------------------------------------------------------------------


def behaviours(
    codes: list[str], *inputs: str, tests: tuple[str, ...] = (), time_s: float = 1.0
) -> list[tuple[str, ...]]:
    jobs = [
        Job(
            code=code,
            tests=tuple(CodeTest(code=test) for test in tests),
            entry_point="f",
            limits=Limits(time_s=time_s),
            probes=inputs,
        )
        for code in codes
    ]
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        return [report.behaviour for report in run(sandbox, jobs)]


def test_equal_values_are_one_outcome_whatever_the_program() -> None:
    codes = [
        "def f(x): return {'b': 1.0, 'a': {x, 'y', 2}}",
        "def f(x): return dict(a=set([2, 'y', x]), b=1 + 1e-13)",
        "def f(x): return {'b': 1, 'a': {x, 'y', 3}}",
    ]
    one, same, other = behaviours(codes, "f(1)", "f('é')")
    assert one == same
    assert not set(one) & set(other)


def test_exceptions_timeouts_none_and_the_end_of_the_process_are_outcomes_of_their_own() -> None:
    code = """
import os
def f(x):
    if x == 0: return 1 / x
    if x == 1: return None
    if x == 2: os._exit(0)
    if x == 3: return object()
    if x == 4: return (i for i in range(3))
    return x
"""
    [found] = behaviours([code], *(f"f({x})" for x in range(6)))
    assert found[:4] == ("raise ZeroDivisionError", "None", "early_exit", "")
    assert found[4].startswith("= ")
    assert found[5].startswith("= ")


def test_an_endless_program_times_out_and_the_later_inputs_still_run() -> None:
    code = "def f(x):\n    while x == 0: pass\n    return x"
    [found] = behaviours([code], "f(0)", "f(1)")
    assert found[0] == "timeout"
    assert found[1].startswith("= ")


def test_a_program_that_always_hangs_costs_a_bounded_number_of_processes() -> None:
    [found] = behaviours(["def f(x):\n    while True: pass"], *(f"f({x})" for x in range(24)), time_s=0.2)
    assert len(found) == 24
    assert set(found[:4]) == {"timeout"}
    assert set(found[4:]) == {""}


def test_a_program_that_does_not_load_has_no_behaviour() -> None:
    assert behaviours(["def f(x", "raise ValueError", "def g(x): return 1"], "f(1)") == [
        ("",),
        ("",),
        ("raise NameError",),
    ]


def test_a_probe_changes_no_verdict() -> None:
    code = "seen = []\ndef f(x):\n    seen.append(x)\n    print('x' * 100000)\n    return len(seen)"
    job = Job(code=code, tests=(CodeTest(code="assert f(1) == 1"),), entry_point="f")
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        bare, probed = run(sandbox, [job, job.model_copy(update={"probes": tuple(f"f({i})" for i in range(9))})])
    assert bare.passed
    assert probed.passed
    assert bare.stdout == probed.stdout


def test_equal_outcomes_on_different_inputs_have_different_names() -> None:
    [found] = behaviours(["def f(x): return 7"], "f(1)", "f(2)")
    assert found[0] != found[1]


def test_no_value_leaves_the_judge() -> None:
    [found] = behaviours(["def f(x): return 'needle'", "def f(x): raise ValueError('needle')"], "f(1)")[:1]
    assert "needle" not in str(found)


def test_programs_without_an_entry_point_are_compared_by_what_they_print() -> None:
    codes = ["print(int(input()) * 2)", "n = int(input())\nprint(n + n, '')", "print(input())"]
    jobs = [Job(code=code, probes=("2\n", "x\n")) for code in codes]
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        one, same, other = [report.behaviour for report in run(sandbox, jobs)]
    assert one == same
    assert one[1] == "raise ValueError"
    assert one[0] != other[0]
