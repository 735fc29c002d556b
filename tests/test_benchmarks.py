"""Published row forms become problems, faults in files become one sentence each. The rows here are our own."""

import base64
import gzip
import json
import pickle
import zlib
from typing import Any

import pytest

from mucode_agent.evaluation.benchmarks import codecontests, livecodebench, load_benchmark
from mucode_agent.problems import read_problem
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import CodeTest, ProblemError, StdioTest

HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'def double(x):\n    """Twice x.\n    >>> double(2)\n    4\n    >>> double(0)\n    0\n    """\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}
PACK = HUMANEVAL | {
    "task_id": "Python/900",
    "test": "def check(double):\n    assert double(3) == 6\n\ncheck(double)",
    "example_test": "def check(double):\n    assert double(2) == 4\n    assert double(0) == 0\ncheck(double)\n",
}
MBPP = {
    "task_id": 700,
    "text": "Write a function to double a number.",
    "code": "def double(x):\r\n  return 2 * x",
    "test_list": ["assert double(1) == 2", "assert double(2) == 4", "assert double(3) == 6"],
    "test_setup_code": "",
    "challenge_test_list": ["assert double(-1) == -2"],
}
CONTEST = {
    "name": "900_A. Double",
    "description": "Read a number, print its double.",
    "public_tests": {"input": ["1\n"], "output": ["2\n"]},
    "private_tests": {"input": ["2\n"], "output": ["4\n"]},
    "generated_tests": {"input": ["5\n", "6\n"], "output": ["10\n", "12\n"]},
    "solutions": {"language": [2, 3], "solution": ["int main(){}", "print(2 * int(input()))"]},
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
    "memory_limit_bytes": 1 << 30,
}
LIVE = {
    "question_id": "abc900_a",
    "question_content": "Read a number, print its double.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    "metadata": "{}",
}


def written(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def only(benchmark):
    (problem,) = benchmark.problems
    return problem


def codes(tests):
    return [test.code for test in tests]


# --- HumanEval -----------------------------------------------------------------------------------------------------


def test_the_wheel_holds_all_of_humaneval_with_references():
    problems = load_benchmark("humaneval").problems

    assert [problem.id for problem in problems] == [f"HumanEval/{number}" for number in range(164)]
    assert all(problem.reference and problem.private_tests and problem.entry_point for problem in problems)


def test_humaneval_shows_the_docstrings_examples_and_judges_by_the_official_suite(tmp_path):
    problem = only(load_benchmark(f"humaneval:{written(tmp_path, HUMANEVAL)}"))

    assert codes(problem.public_tests) == ["assert double(2) == 4", "assert double(0) == 0"]
    assert codes(problem.private_tests) == [HUMANEVAL["test"]]
    assert problem.reference == HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]


def test_humanevalpack_rows_get_the_ids_of_humaneval(tmp_path):
    assert only(load_benchmark(f"humaneval:{written(tmp_path, PACK)}")).id == "HumanEval/900"


def test_the_paper_split_shows_the_second_example_and_keeps_the_rest(tmp_path):
    problem = only(load_benchmark(f"humaneval:{written(tmp_path, PACK)}", split="paper"))

    assert codes(problem.public_tests) == ["assert double(0) == 0"]
    assert "double(2) == 4" in problem.private_tests[0].code
    assert "double(0)" not in problem.private_tests[0].code
    assert problem.private_tests[0].code.endswith("check(double)")


def test_the_paper_split_makes_a_task_with_one_example_unsolvable_as_the_authors_code_does(tmp_path):
    row = PACK | {"example_test": "def check(double):\n    assert double(2) == 4\ncheck(double)\n"}

    problem = only(load_benchmark(f"humaneval:{written(tmp_path, row)}", split="paper"))

    assert codes(problem.public_tests) == ["assert double(2) == 4"]
    assert "assert False" in problem.private_tests[0].code
    assert "no program passes: IndentationError" in problem.private_tests[0].code


def test_the_paper_split_without_an_example_passes_any_program_in_public(tmp_path):
    problem = only(load_benchmark(f"humaneval:{written(tmp_path, PACK | {'example_test': ''})}", split="paper"))

    assert codes(problem.public_tests)[0].startswith("assert True")


def test_the_paper_split_needs_humanevalpacks_rows():
    with pytest.raises(ProblemError, match="paper split needs the field example_test, which humanevalpack's rows have"):
        load_benchmark("humaneval", split="paper")


def test_humaneval_plus_reads_the_hubs_rows(tmp_path):
    suite = "def check(candidate):\n    for i in range(9):\n        assert candidate(i) == 2 * i\n"

    problem = only(load_benchmark(f"humaneval+:{written(tmp_path, HUMANEVAL | {'test': suite})}"))

    assert codes(problem.private_tests) == [suite]


def test_humaneval_plus_in_the_paper_split_shows_every_example(tmp_path):
    problem = only(load_benchmark(f"humaneval+:{written(tmp_path, PACK)}", split="paper"))

    assert codes(problem.public_tests) == [PACK["example_test"].strip()]
    assert "double(2) == 4" in problem.private_tests[0].code


def plus_release(tmp_path, **changes):
    row = {key: value for key, value in HUMANEVAL.items() if key != "test"}
    row |= {"base_input": [[1.5], [2.5]], "plus_input": [[0.1]], "atol": 0, "contract": ""} | changes
    return only(load_benchmark(f"humaneval+:{written(tmp_path, row)}"))


@pytest.mark.parametrize(
    ("program", "right"),
    [(lambda x: 2 * x, True), (lambda x: x + x + 1e-9, True), (lambda x: x, False), (lambda x: [x, x], False)],
)
def test_the_release_form_of_humaneval_plus_is_judged_by_its_own_solution(tmp_path, program, right):
    scope = {}
    exec(plus_release(tmp_path).private_tests[0].code, scope)

    if right:
        scope["check"](program)
    else:
        with pytest.raises(AssertionError):
            scope["check"](program)


def test_a_program_that_changes_its_input_does_not_change_what_is_expected(tmp_path):
    problem = plus_release(
        tmp_path,
        prompt='def head(xs):\n    """The first."""\n',
        entry_point="head",
        canonical_solution="    return xs[0]\n",
        base_input=[[[3, 1]]],
        plus_input=[],
    )
    scope = {}
    exec(problem.private_tests[0].code, scope)

    with pytest.raises(AssertionError):
        scope["check"](lambda xs: (xs.sort(), xs[0])[1])


# --- MBPP ----------------------------------------------------------------------------------------------------------


def test_mbpp_shows_one_assert_and_judges_by_the_others_and_the_challenges(tmp_path):
    problem = only(load_benchmark(f"mbpp:{written(tmp_path, MBPP)}"))

    assert (problem.id, problem.entry_point) == ("MBPP/700", "double")
    assert codes(problem.public_tests) == MBPP["test_list"][:1]
    assert codes(problem.private_tests) == MBPP["test_list"][1:] + MBPP["challenge_test_list"]


def test_mbpp_in_the_paper_split_shows_all_asserts_of_training_tasks_and_drops_the_challenges(tmp_path):
    train = only(load_benchmark(f"mbpp:{written(tmp_path, MBPP)}", split="paper"))
    test = only(load_benchmark(f"mbpp:{written(tmp_path, MBPP | {'task_id': 11})}", split="paper"))

    assert (codes(train.public_tests), train.private_tests) == (MBPP["test_list"], ())
    assert (codes(test.public_tests), codes(test.private_tests)) == (MBPP["test_list"][:1], MBPP["test_list"][1:])


def test_sanitised_mbpp_reads_as_well(tmp_path):
    row = {"task_id": 2, "prompt": MBPP["text"], "code": MBPP["code"], "test_imports": ["import math"]}
    row |= {"test_list": MBPP["test_list"], "source_file": "x"}

    assert only(load_benchmark(f"mbpp:{written(tmp_path, row)}")).public_tests[0].code.startswith("import math")


def test_mbpp_plus_adds_its_suite_to_the_private_tests(tmp_path):
    suite = "for i in range(9):\n    assert double(i) == 2 * i"
    row = {"task_id": 2, "prompt": MBPP["text"], "code": MBPP["code"], "test_imports": ["import math"]}
    row |= {"test_list": MBPP["test_list"], "test": suite}

    problem = only(load_benchmark(f"mbpp+:{written(tmp_path, row)}"))

    assert problem.private_tests[-1].code == f"import math\n{suite}"
    assert len(problem.private_tests) == 3


def test_the_release_form_of_mbpp_plus_is_refused_with_the_form_that_works(tmp_path):
    row = {"task_id": "Mbpp/2", "prompt": "p", "entry_point": "f", "base_input": [], "plus_input": []}

    with pytest.raises(ProblemError, match="give the rows of the hub's evalplus/mbppplus"):
        load_benchmark(f"mbpp+:{written(tmp_path, row)}")


# --- programs ------------------------------------------------------------------------------------------------------


def test_codecontests_judges_by_private_and_generated_tests(tmp_path):
    problem = only(load_benchmark(f"codecontests:{written(tmp_path, CONTEST)}"))

    assert problem.entry_point is None
    assert problem.public_tests == (StdioTest(stdin="1\n", stdout="2\n", compare="tokens"),)
    assert [test.stdin for test in problem.private_tests] == ["2\n", "5\n", "6\n"]
    assert problem.reference == "print(2 * int(input()))"
    assert (problem.limits.time_s, problem.limits.memory_mb) == (2.0, 1024)


def test_codecontests_in_the_paper_split_leaves_out_generated_tests_and_tasks_without_public_ones(tmp_path):
    hidden = CONTEST | {"name": "900_B", "public_tests": {"input": [], "output": []}}
    path = written(tmp_path, CONTEST, hidden)

    assert len(load_benchmark(f"codecontests:{path}").problems) == 2
    problem = only(load_benchmark(f"codecontests:{path}", split="paper"))
    assert [test.stdin for test in problem.private_tests] == ["2\n"]
    assert problem.limits.time_s == 1.5


def test_codecontests_without_a_python_solution_or_a_time_limit_reads(tmp_path):
    row = CONTEST | {"solutions": {"language": [2], "solution": ["int main(){}"]}, "time_limit": None}

    problem = only(load_benchmark(f"codecontests:{written(tmp_path, row)}"))

    assert problem.reference is None
    assert problem.limits.time_s == 2.0


def test_livecodebench_reads_programs(tmp_path):
    problem = only(load_benchmark(f"livecodebench:{written(tmp_path, LIVE)}"))

    assert problem.entry_point is None
    assert problem.private_tests == (StdioTest(stdin="2\n", stdout="4\n", compare="decimals"),)


def packed(text):
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


def test_livecodebench_reads_packed_private_tests(tmp_path):
    row = LIVE | {"private_test_cases": packed(LIVE["private_test_cases"])}

    assert only(load_benchmark(f"livecodebench:{written(tmp_path, row)}")).private_tests[0].stdin == "2\n"


class Harmful:
    def __reduce__(self):
        return print, ("run while unpickling",)


def test_a_packed_test_case_cannot_run_code(tmp_path, capsys):
    row = LIVE | {"private_test_cases": packed(Harmful())}

    with pytest.raises(ProblemError, match=r"names builtins\.print; only text is unpacked"):
        load_benchmark(f"livecodebench:{written(tmp_path, row)}")
    assert capsys.readouterr().out == ""


def test_livecodebench_asks_for_a_function_where_the_site_asks_for_a_method(tmp_path):
    case = {"input": '[1, 2]\n"x"', "output": "[[1, 2]]", "testtype": "functional"}
    row = LIVE | {
        "starter_code": "class Solution:\n    def wrap(self, nums: List[int], s: str) -> List[List[int]]:\n        ",
        "public_test_cases": json.dumps([case]),
        "private_test_cases": json.dumps([case]),
        "metadata": json.dumps({"func_name": "wrap"}),
    }

    problem = only(load_benchmark(f"livecodebench:{written(tmp_path, row)}"))

    assert problem.entry_point == "wrap"
    assert "def wrap(nums: List[int], s: str) -> List[List[int]]:" in problem.prompt
    assert "Solution" not in problem.prompt
    exec(problem.private_tests[0].code, {"wrap": lambda nums, s: (nums,)})
    with pytest.raises(AssertionError):
        exec(problem.private_tests[0].code, {"wrap": lambda nums, s: nums})


# --- our own, and what is asked of all -----------------------------------------------------------------------------


def test_our_own_problems_read_and_unnamed_ones_are_numbered(tmp_path):
    row = {"prompt": "Double x.", "public_tests": ["assert double(1) == 2"], "reference": "def double(x): return 2 * x"}

    benchmark = load_benchmark(f"jsonl:{written(tmp_path, row, row | {'id': 'mine'}, name='set.jsonl')}")

    assert [problem.id for problem in benchmark.problems] == ["set/1", "mine"]


def test_compressed_and_plain_files_give_the_same_benchmark(tmp_path):
    plain = written(tmp_path, MBPP)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([MBPP]))

    digests = {load_benchmark(f"mbpp:{path}").sha256 for path in (plain, packed, array)}

    assert len(digests) == 1


def test_the_digest_sees_tests_split_and_variant(tmp_path):
    path = written(tmp_path, MBPP)
    other = written(tmp_path, MBPP | {"challenge_test_list": []}, name="other.jsonl")

    digests = [
        load_benchmark(f"mbpp:{path}").sha256,
        load_benchmark(f"mbpp:{other}").sha256,
        load_benchmark(f"mbpp:{path}", split="paper").sha256,
        load_benchmark(f"mbpp:{path}", testless=True).sha256,
    ]

    assert len(set(digests)) == 4


def test_limit_keeps_the_first_problems():
    assert [problem.id for problem in load_benchmark("humaneval", limit=2).problems] == ["HumanEval/0", "HumanEval/1"]


def test_testless_shows_no_example_of_any_humaneval_task():
    plain, testless = load_benchmark("humaneval").problems, load_benchmark("humaneval", testless=True).problems

    for before, after in zip(plain, testless, strict=True):
        assert not after.show_tests
        assert after.public_tests == before.public_tests
        compile(after.prompt + "\n    pass\n", after.id, "exec")
        for test in before.public_tests:
            assert test.code.removeprefix("assert ").split(" == ")[0] not in after.prompt


def test_testless_mbpp_gives_the_signature_that_the_tests_would_have_shown(tmp_path):
    problem = only(load_benchmark(f"mbpp:{written(tmp_path, MBPP)}", testless=True))

    assert problem.prompt.endswith("Required signature: `def double(x):`")


def test_testless_keeps_the_docstring_closed_when_an_example_shares_its_last_line(tmp_path):
    row = HUMANEVAL | {"prompt": 'def double(x):\n    """Twice x.\n\n    Examples:\n    double(2) == 4"""\n'}

    problem = only(load_benchmark(f"humaneval:{written(tmp_path, row)}", testless=True))

    assert problem.prompt == 'def double(x):\n    """Twice x.\n\n    """\n'


# --- faults --------------------------------------------------------------------------------------------------------


def refusal(spec, **options):
    with pytest.raises(ProblemError) as caught:
        load_benchmark(spec, **options)
    return str(caught.value)


def test_a_truncated_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(MBPP) + "\n" + json.dumps(MBPP | {"task_id": 701})[:50])

    message = refusal(f"mbpp:{path}")

    assert f"{path}, line 2 is not JSON" in message
    assert "cut off; fetch it again" in message


def test_a_truncated_archive_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(MBPP).encode() * 100)[:-20])

    assert "cut off or damaged" in refusal(f"mbpp:{path}")


def test_a_missing_field_is_named_with_its_line(tmp_path):
    row = {key: value for key, value in CONTEST.items() if key != "private_tests"}

    message = refusal(f"codecontests:{written(tmp_path, CONTEST, row)}")

    assert message.endswith("rows.jsonl, line 2: field private_tests is missing")


def test_a_humaneval_row_without_its_tests_is_named(tmp_path):
    row = {key: value for key, value in HUMANEVAL.items() if key != "test"}

    assert "rows.jsonl, line 1: " in refusal(f"humaneval:{written(tmp_path, row)}")


def test_duplicate_ids_are_named_with_both_places(tmp_path):
    message = refusal(f"mbpp:{written(tmp_path, MBPP, MBPP)}")

    assert "line 2: the id 'MBPP/700' is already in" in message
    assert "line 1; ids must differ" in message


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_an_empty_benchmark_is_refused(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)

    assert "holds no problem" in refusal(f"jsonl:{path}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[1, 2]\n", "holds a JSON list; a row is one JSON object"),
        (b"7\n", "holds a JSON int"),
        (b"\xff\xfe\n", "is not UTF-8 text"),
        (b'{"task_id": 1, "text": "t", "test_list": 3}\n', "test_list"),
        (b"[" * 100_000 + b"\n", "is not JSON"),
        (b'{"task_id": "x", "text": "t", "test_list": ["assert f(1)"], "code": 3}\n', "line 1"),
    ],
)
def test_rows_of_another_form_are_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    message = refusal(f"mbpp:{path}")

    assert sentence in message
    assert "\n" not in message


def test_a_contest_row_of_another_form_is_one_sentence(tmp_path):
    assert "line 1 does not have the form" in refusal(
        f"codecontests:{written(tmp_path, CONTEST | {'public_tests': 3})}"
    )
    uneven = CONTEST | {"public_tests": {"input": ["1"], "output": []}}
    assert "line 1 does not have the form" in refusal(f"codecontests:{written(tmp_path, uneven)}")


def test_unknown_names_and_options_are_refused_with_the_known_ones(tmp_path):
    assert "known are humaneval, humaneval+, mbpp" in refusal("humanevil")
    assert "give mbpp:FILE.jsonl, or mbpp:hub" in refusal("mbpp")
    assert "No such file" in refusal(f"mbpp:{tmp_path / 'nothing.jsonl'}")
    assert "split must be one of fixed, paper, got 'test'" in refusal("humaneval", split="test")
    assert "limit must be at least 1, got 0" in refusal("humaneval", limit=0)
    assert "jsonl has no default on the hub" in refusal("jsonl:hub")


def test_a_directory_in_place_of_a_file_is_one_sentence(tmp_path):
    assert "Is a directory" in refusal(f"mbpp:{tmp_path}")


@pytest.mark.parametrize(("package", "spec"), [("datasets", "mbpp:hub"), ("pyarrow", "mbpp:rows.parquet")])
def test_a_package_that_is_not_installed_is_named(package, spec):
    import importlib.util

    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    assert f"needs the package {package}" in refusal(spec)


def test_a_row_without_an_entry_point_asks_for_the_last_function_of_its_prompt() -> None:
    row = {
        "prompt": "def helper():\n    return 1\n\ndef inc(x):\n",
        "test": ["assert inc(1) == 2", "assert inc(5) == 6"],
    }
    problem = read_problem(row)
    assert (problem.entry_point, len(problem.private_tests)) == ("inc", 2)


@pytest.mark.parametrize("tests", ["assert inc(1) == 2", '["assert inc(1) == 2"]', ["assert inc(1) == 2"]])
def test_lists_of_an_mbpp_row_may_be_texts_or_null(tests: str | list[str]) -> None:
    row = {"text": "Write inc.", "test_list": tests, "test_imports": None, "challenge_test_list": None}
    assert read_problem(row).public_tests == (CodeTest(code="assert inc(1) == 2"),)


@pytest.mark.parametrize(
    ("time_limit", "seconds"), [({"nanos": 0}, 2), ({"seconds": None, "nanos": None}, 2), ({"seconds": "3"}, 3), (4, 4)]
)
def test_contest_rows_are_read_as_tools_write_them(time_limit: Any, seconds: float) -> None:
    row = {
        "name": "1_A",
        "description": "Double.",
        "public_tests": [{"input": "3", "output": "6"}],
        "private_tests": None,
        "solutions": [{"language": "PYTHON3", "solution": "print 1"}, {"language": 3, "solution": "print(6)"}],
        "time_limit": time_limit,
    }
    problem = codecontests(row)
    assert problem is not None
    assert (len(problem.public_tests), problem.reference, problem.limits.time_s) == (1, "print(6)", seconds)


CASES = [{"input": "2\n", "output": "4\n", "testtype": "stdin"}]


@pytest.mark.parametrize(
    "private",
    [
        CASES,
        json.dumps(CASES),
        base64.b64encode(json.dumps(CASES).encode()).decode(),
        base64.b64encode(gzip.compress(json.dumps(CASES).encode())).decode(),
        base64.b64encode(zlib.compress(pickle.dumps(CASES))).decode(),
    ],
    ids=["a list", "JSON", "base 64", "gzip", "a zlib pickle"],  # gzip writes the time, and ids must not depend on it
)
def test_private_tests_of_livecodebench_may_be_packed_in_any_way(private: Any) -> None:
    problem = livecodebench(LIVE | {"private_test_cases": private})
    assert problem is not None
    assert problem.private_tests == (StdioTest(stdin="2\n", stdout="4\n", compare="decimals"),)


def test_a_method_that_a_prepended_import_also_names_is_the_programs(sandbox: LocalSandbox) -> None:
    case = json.dumps([{"input": "1", "output": "2", "testtype": "functional"}])
    starter = "class Solution:\n    def add(self, a: int) -> int:\n        "
    row = LIVE | {"public_test_cases": case, "private_test_cases": case, "starter_code": starter, "metadata": {}}
    problem = livecodebench(row)
    assert problem is not None
    programs = [f"{starter}return a + 1", "def add(a):\n    return a + 1", "def add(a):\n    return 7"]
    statuses = [report.status for report in run(sandbox, [problem.judge_job(code) for code in programs])]
    assert statuses == ["passed", "passed", "wrong_answer"]
