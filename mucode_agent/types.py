"""The records, in the order of the flow: Problem, Candidate, ExecutionReport, Score, Turn, Solution; and the protocols.

Records are frozen pydantic models. LangGraph's state holds their JSON form (`model_dump(mode="json")`).
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Annotated, Any, Literal, Protocol, Self, TypedDict, cast, runtime_checkable

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class MucodeError(Exception):
    """Base of this package's errors. The message gives the value, the rule and what to do, in one sentence."""

    samples: "tuple[Sample, ...]" = ()
    """The completions that this request drew before it failed."""
    solution: "Solution | None" = None
    """The best answer of the solve that failed; None if no candidate had been run."""


class ProblemError(MucodeError, ValueError):
    """The input cannot be used: a malformed problem, option or file. The caller can fix it."""


class ContextOverflowError(ProblemError):
    """A prompt and its answer do not fit the model's context."""


class InfrastructureError(MucodeError):
    """A model server, sandbox or verifier failed. It is no judgement on any candidate; a retry may work.

    It is no `RuntimeError`, because LangGraph's default `RetryPolicy` does not retry those.
    """


class Record(BaseModel):
    """A frozen value with no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _without_defaults(record: BaseModel, dumped: dict[str, Any], *fields: str) -> dict[str, Any]:
    """`dumped` without those of `fields` that have their default.

    These fields are newer than some runs whose identity includes a problem's digest. A problem that does not use them
    keeps its digest.
    """
    plain = {name for name in fields if getattr(record, name) == type(record).model_fields[name].default}
    return {name: value for name, value in dumped.items() if name not in plain}


# --- the problem ---------------------------------------------------------------------------------------------------


class Limits(Record):
    """What one candidate program may use. Exceeding a limit gives a verdict, not an error."""

    time_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """CPU seconds, once for loading the program and again for each test. Wall time may be several times this."""
    memory_mb: Annotated[int, Field(ge=16, le=1 << 20)] = 512
    output_kb: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    """Limit of standard output and error together, and of one returned value."""
    file_mb: Annotated[int, Field(ge=0, le=1 << 20)] = 16
    """Limit of all files together that the program may write in its own directory."""


class CodeTest(Record):
    """Python source that judges: asserts on the entry point, or a `check(candidate)` that is called with it."""

    code: Annotated[str, Field(min_length=1)]


Comparison = Literal["lines", "tokens", "decimals"]
"""How printed text is compared.

`lines`: equal lines; white space at the end of a line does not count. `tokens`, as CodeContests judges: equal words in
either case, with any white space between them, numbers to 1e-5. `decimals`, as LiveCodeBench judges: the same number of
lines, each equal apart from white space around it, or made of equal decimal numbers.
"""


class StdioTest(Record):
    """The program is run with `stdin`; its standard output must equal `stdout` in the sense of `compare`."""

    stdin: str
    stdout: str
    compare: Comparison = "lines"

    @model_serializer(mode="wrap")
    def _json(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_defaults(self, handler(self), "compare")


def _bare_source_is_a_code_test(test: Any) -> Any:
    return {"code": test} if isinstance(test, str) else test


Test = Annotated[
    CodeTest | StdioTest,
    BeforeValidator(_bare_source_is_a_code_test, json_schema_input_type=str | CodeTest | StdioTest),
]


Judge = Literal["apart", "together"]
"""Which process judges. `apart`: a separate process, so no program can forge the verdict. `together`: the program's own
process, which runs every test that plain Python runs, but where a hostile program can forge the verdict. Nothing that a
program does can select it.
"""


class Problem(Record):
    """A task with its tests. A bare string among the tests is Python source (see `CodeTest`)."""

    id: Annotated[str, Field(pattern="")] = ""
    prompt: Annotated[str, Field(min_length=1, pattern=r"\S")]
    """What to write, in words, code or both. Shown to the generator and the verifier."""
    entry_point: str | None = None
    """The function that the tests call; None for a program that reads stdin and writes stdout."""
    setup: str = ""
    """Trusted code that runs before the candidate and before the tests: imports, helpers that the prompt defines."""
    public_tests: tuple[Test, ...] = ()
    """Candidates run on them, and their failures enter the feedback to the generator."""
    show_tests: bool = True
    """Whether the prompt shows the public tests; otherwise a failing one is first seen in the feedback (MBPP-POMDP)."""
    private_tests: tuple[Test, ...] = ()
    """Judge answers and label training data. Never shown to a model, and never inside the graph."""
    reference: str | None = None
    """A known correct program. Never shown to a model; `evaluate check` runs it."""
    limits: Limits = Limits()
    judge: Judge = "apart"
    """Which judge runs the code tests. `evaluate check` lists the problems that need `together`."""

    @model_serializer(mode="wrap")
    def _json(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_defaults(self, handler(self), "judge")

    def job(self, code: str, *, probes: Sequence[str] = ()) -> "Job":
        """`code` on the public tests, and on the probes."""
        return Job(
            code=code,
            tests=self.public_tests,
            entry_point=self.entry_point,
            setup=self.setup,
            limits=self.limits,
            probes=tuple(probes),
            judge=self.judge,
        )

    def judge_job(self, code: str) -> "Job":
        """`code` on all tests: R(x, y) = 1 when it passes public and private ones (paper, section 2)."""
        return self.job(code).model_copy(update={"tests": (*self.public_tests, *self.private_tests)})

    def public(self) -> "Problem":
        """The problem as a solver may see it: no private tests, no reference."""
        return self.model_copy(update={"private_tests": (), "reference": None})


# --- execution -----------------------------------------------------------------------------------------------------

Status = Literal[
    "passed",
    "wrong_answer",
    "exception",
    "syntax_error",
    "missing_entry_point",
    "timeout",
    "memory",
    "output_limit",
    "early_exit",  # the process ended before it answered: any exit code, 0 included, or a signal
    "skipped",  # not run, because the program died in an earlier test
    "unjudged",  # the test or the value cannot be judged safely, or there was no test: never a pass
    "infra",  # the sandbox failed; no information about the program
]


class TestResult(Record):
    """The verdict of one test. Texts are bounded, scrubbed of paths, and empty where they do not apply."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    status: Status
    test: str = ""
    """What was run: the failing assert, call or stdin."""
    expected: str = ""
    actual: str = ""
    error: str = ""
    """`Type: message` of an exception, or the reason of any other failure."""
    traceback: tuple[str, ...] = ()
    """The candidate's own frames, outermost first: `line 3, in f: return x / 0`."""
    invalid_test: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Whether the test is broken: it does not use the program, or fails or ends in a way that judges no program."""
    by_program: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Whether an `unjudged` result was caused by what the program did, so that another program might have passed."""
    time_s: float = 0.0
    """CPU seconds."""


class ExecutionReport(Record):
    """The verdict on one program for a list of tests; `results` has one entry per test, in order."""

    status: Status
    """`passed` if every test passed and there was at least one, else the status of the first failure."""
    results: tuple[TestResult, ...] = ()
    error: str = ""
    """The cause, for `infra` and for a program that failed before its first test."""
    stdout: str = ""
    """The first part of what the program printed."""
    stderr: str = ""
    """The first part of what it wrote to standard error; no test compares it."""
    time_s: float = 0.0
    """CPU seconds, all tests together."""
    wall_s: float = 0.0
    memory_mb: float = 0.0
    """Peak resident memory of the program."""
    isolation: str = ""
    """The isolation layers of this run, e.g. `namespaces+landlock+seccomp+rlimits`."""
    behaviour: tuple[str, ...] = ()
    """The outcome of each of the job's probes: `= <digest of the value>`, `None`, `raise <type>`, or the status that
    ended the process; empty where it is unknown. Outcomes are no verdicts, and no value leaves the sandbox.
    """
    judge: Judge = "apart"
    """Which judge decided: a verdict of `together` can be forged by a hostile program."""

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def judged(self) -> bool:
        """Whether a reward can be given. It cannot if the sandbox failed, or if only tests that can judge no program
        failed. A program that is unjudged because of what it did itself counts as judged, and has not passed: otherwise
        a policy could learn to escape a low reward. Accuracy and training labels leave every unjudged program out.
        """
        if self.status not in ("infra", "unjudged"):
            return True
        failed = [result for result in self.results if result.status not in ("passed", "skipped", "infra")]
        return self.status != "infra" and any(result.status != "unjudged" or result.by_program for result in failed)

    @property
    def tests_passed(self) -> int:
        return sum(result.status == "passed" for result in self.results)

    @property
    def first_failure(self) -> TestResult | None:
        return next((result for result in self.results if result.status != "passed"), None)

    @model_validator(mode="after")
    def _a_pass_needs_a_test(self) -> Self:
        if self.passed and not (self.results and self.tests_passed == len(self.results)):
            raise ValueError("status 'passed' needs at least one test and every test passed")
        return self


class Job(Record):
    """One program with the tests that judge it: the unit of work of a sandbox."""

    code: str
    tests: tuple[Test, ...] = ()
    entry_point: str | None = None
    setup: str = ""
    limits: Limits = Limits()
    probes: tuple[str, ...] = ()
    """Inputs on which the program also runs, after the tests and separate from them: calls of the entry point with
    literal arguments, or texts for standard input if there is no entry point. See `ExecutionReport.behaviour`.
    """
    judge: Judge = "apart"


@runtime_checkable
class Sandbox(Protocol):
    """Runs untrusted programs; works like a `concurrent.futures` executor.

    A wrong program gives a report. A broken sandbox gives a report with status `infra`, after its own retries.
    Cancelling a future kills its program.
    """

    @property
    def isolation(self) -> str:
        """The isolation layers of its programs, joined by `+`."""
        ...

    def submit(self, job: Job) -> Future[ExecutionReport]: ...

    def close(self) -> None:
        """End every process and free every resource. May be called twice."""
        ...


# --- generation, verification, selection ---------------------------------------------------------------------------


class Sample(Record):
    """One completion of a generator."""

    text: str
    seed: int
    completion_tokens: int = 0
    prompt_tokens: int = 0
    """Tokens of the prompt billed to this sample: shared by the samples of one request, so it is counted once."""
    logprob: float | None = None
    """Sum of the tokens' log-probabilities; None if the model returns none."""
    code_logprob: float | None = None
    """The same over the `code_tokens` tokens of the reply's fenced code; see `models.logprobs`."""
    code_tokens: int = 0
    finish_reason: str = ""
    """`stop`, `length`, or the provider's own word."""
    tool_calls: int = 0
    """Calls that the generator made before it answered; the counts above include their tokens."""

    @property
    def likelihood(self) -> tuple[float, int, float, int] | None:
        """Log-probability and tokens of the whole reply, then of its code; without code, the reply counts as its code.

        None if the model returned no log-probabilities, or called tools: then the counts cover all that it wrote, but
        the sum only its answer.
        """
        if self.logprob is None or not self.completion_tokens or self.tool_calls:
            return None
        of_reply = (self.logprob, self.completion_tokens)
        whole = self.code_logprob is None or not self.code_tokens
        return (*of_reply, *of_reply) if whole else (*of_reply, self.code_logprob or 0.0, self.code_tokens)

    @property
    def mean_logprob(self) -> float | None:
        """Mean per token of the code, or of the whole reply if it has no code; None if `likelihood` is None."""
        return self.likelihood[2] / self.likelihood[3] if self.likelihood else None


class Score(Record):
    """A verifier's judgement of one candidate: R(x, y) of the paper, eq. 3, or what replaces it."""

    logit: Annotated[float, Field(allow_inf_nan=False)]
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    """Calibrated P(correct); None where no calibration exists."""


class Candidate(Record):
    """One program with everything that the graph knows about it."""

    turn: int
    """From 1."""
    index: int
    """Place within the turn, from 0."""
    sample: Sample
    code: str
    """The program in the completion; empty if it contains none."""
    report: ExecutionReport | None = None
    """On the public tests, with the behaviour on the probes."""
    score: Score | None = None


class Verifier(Protocol):
    """P(correct) of the candidates of one turn, for ranking and routing.

    It reads the problem and the turn's candidates: their programs, samples, reports on the public tests and behaviour
    on the probes. It never reads the history (one-step recoverability, paper section 3.5). The paper's R(x, y) is the
    verifier that reads each program alone.
    """

    @property
    def name(self) -> str: ...

    @property
    def calibrated_on(self) -> tuple[str, ...] | None:
        """The generators whose programs its probabilities were fitted on; empty if unknown; None if it gives no
        probabilities.
        """
        ...

    @property
    def accept_threshold(self) -> float | None:
        """The least P(correct) at which an answer without public tests is accepted; None: never."""
        ...

    def score(self, problem: Problem, candidates: "Sequence[Candidate]") -> list[Score]:
        """One score per candidate of one turn, in order. Raises InfrastructureError if it cannot score."""
        ...


class LoadedVerifier(Verifier, Protocol):
    """A verifier that was loaded from a string; whoever loaded it must close it."""

    def close(self) -> None:
        """Free every resource. May be called twice."""
        ...


class Turn(Record):
    """A finished turn: the candidate whose failure is fed back. The trace has the other candidates."""

    best: Candidate
    candidates: int
    """How many candidates were drawn in this turn."""
    comment: str = ""
    """The comment of the person who rejected the candidate."""


class Review(Record):
    """A person's decision on an answer that would be accepted."""

    approved: bool
    comment: str = ""
    """Why it is refused; the generator reads it in the next turn."""
    code: Annotated[str, Field(min_length=1)] | None = None
    """With an approval: the program as the person edited it, to accept instead. It runs before it is accepted."""


StopReason = Literal[
    "accepted",  # passes every public test, and P(correct) reaches `accept_threshold` where one is set
    "max_turns",
    "no_feedback",  # there are no public tests and the best candidate runs: nothing failed that a turn could repair
    "max_candidates",
    "max_tokens",
    "max_seconds",
    "max_cost",
    "rejected",  # by a person, when no turn was left
    "recursion_limit",  # LangGraph's limit left too few steps for another turn
    "context_overflow",  # the next turn's prompt does not fit the model's context
    "failure",  # the model, sandbox or verifier failed, and `partial` asks for the best so far
]
"""Why a solve ended. Every reason but `accepted` returns the best candidate so far."""


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling`, any of them, as keywords."""

    temperature: float | None
    top_p: float | None
    max_tokens: int | None


class Sampling(Record):
    """How one completion is drawn; sent to the model with each request. None leaves the model's own value."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """Sampling temperature; 0 is greedy. Default: the model's own; 0.7 if the model is a string."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw each token from the likeliest tokens with this total probability. Default: the model's own."""
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    """Maximum tokens of one completion. Default: the model's own; 1024 if the model is a string."""

    @model_serializer(mode="wrap")
    def _json(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_defaults(self, handler(self), "top_p")

    def request(self) -> SamplingOptions:
        """The options that are set, as keyword arguments of `models.sampling.sample`."""
        return cast("SamplingOptions", {name: getattr(self, name) for name in Sampling.model_fields})


class StatedSampling(Sampling):
    """The same for runs, whose configuration must record the values."""

    temperature: Annotated[float, Field(ge=0, le=100)] = 0.7
    """Sampling temperature; 0 is greedy."""
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    """Maximum tokens of one completion."""


class Budget(Record):
    """What one solve may spend; None is no limit. It is checked between waves, so the last wave may exceed it."""

    candidates: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Prompt and completion tokens together."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    cost: Annotated[float, Field(gt=0)] | None = None
    """In the currency of the prices."""
    prompt_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million prompt tokens."""
    completion_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million completion tokens."""

    @model_validator(mode="after")
    def _a_cost_needs_a_price(self) -> Self:
        if self.cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("cost needs prompt_price or completion_price, per million tokens")
        return self

    def cost_of(self, usage: "Usage") -> float:
        return (usage.prompt_tokens * self.prompt_price + usage.completion_tokens * self.completion_price) / 1e6


class Usage(Record):
    """What one solve has used so far."""

    candidates: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tool_calls: int = 0
    seconds: float = 0.0
    """Wall time inside the nodes; the time between a kill and the resume does not count."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def plus(self, *, seconds: float, samples: Sequence[Sample] = ()) -> "Usage":
        return Usage(
            candidates=self.candidates + len(samples),
            prompt_tokens=self.prompt_tokens + sum(sample.prompt_tokens for sample in samples),
            completion_tokens=self.completion_tokens + sum(sample.completion_tokens for sample in samples),
            tool_calls=self.tool_calls + sum(sample.tool_calls for sample in samples),
            seconds=self.seconds + seconds,
        )


Action = Literal["accept", "ask", "draw", "next_turn", "stop"]
"""`draw` is another wave of candidates for the same turn; `ask` waits for a person's `Review`."""


class Decision(Record):
    """What the router does next, and why."""

    action: Action
    reason: str
    """One sentence for a person."""
    turn: int
    drawn: int
    """Candidates of this turn so far."""
    selected: int
    """Index of the best candidate."""
    probability: float | None = None
    """Its P(correct); None if the verifier gives none."""
    stop_reason: StopReason | None = None
    """Set when the solve ends."""


class Solution(Record):
    """The answer of one solve: the best candidate over all turns, and why the solver stopped."""

    problem_id: str
    solved: bool
    """The answer was accepted. Private tests play no part in it."""
    best: Candidate
    stop_reason: StopReason
    turns: int
    usage: Usage

    @property
    def code(self) -> str:
        return self.best.code
