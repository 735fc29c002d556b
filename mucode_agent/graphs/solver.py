"""The solver: generate → execute → verify → select as LangGraph nodes, looped by a route.

One turn draws up to n candidates in waves, runs them on the public tests and on probes, scores them beside each other,
selects the best, and the route accepts it, draws more, feeds its failure back for another turn, or stops. Two more
nodes stand where they are asked for: `propose` has the model propose further probes, `approve` asks a person before
an answer is accepted. State is plain JSON; the model, sandbox and verifier stand in closures, so any checkpointer works
and nothing live is ever saved.
"""

import asyncio
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.managed import RemainingSteps
from langgraph.types import Checkpointer, interrupt
from pydantic import Field, ValidationError

from mucode_agent.extraction import extract_code
from mucode_agent.graphs.drafting import adraft, draft
from mucode_agent.graphs.selection import Approval, Selector, best_over_turns, decide, normal_form, select
from mucode_agent.models import asample, load_model, sample
from mucode_agent.models.identity import model_name
from mucode_agent.probes import MOST, calls_in, probes
from mucode_agent.problems import read_problem
from mucode_agent.prompts import ask_for_inputs, prompt_digest, render
from mucode_agent.tools.langchain import create_run_python
from mucode_agent.tools.sandbox import arun, load_sandbox, run
from mucode_agent.traces import CandidateRow, DecisionRow, NullTrace, ProblemRow, TraceSink, run_id
from mucode_agent.types import (
    Budget,
    Candidate,
    Decision,
    ExecutionReport,
    InfrastructureError,
    Job,
    Problem,
    ProblemError,
    Record,
    Review,
    Sample,
    Sandbox,
    Score,
    Solution,
    Turn,
    Usage,
    Verifier,
)
from mucode_agent.verifiers import DEFAULT, load_verifier
from mucode_agent.verifiers.card import calibration_mismatch

Generator = BaseChatModel | Runnable[LanguageModelInput, AIMessage]

Solver = CompiledStateGraph["SolverState", None, "SolverInput", "SolverOutput"]

_SAVER = "__pregel_checkpointer"
"""LangGraph's key for the checkpointer of this run, a parent's included; None where there is none."""

STEPS_PER_WAVE = 4
"""Supersteps from `generate` to `select`; `approve` is one more."""


class SolverInput(TypedDict):
    """What a caller gives."""

    problem: dict[str, Any]
    """A problem in JSON form: ours, a HumanEval row or an MBPP row."""


class SolverOutput(TypedDict):
    """What a caller gets."""

    solution: dict[str, Any]
    """A `Solution` in JSON form."""


class SolverState(TypedDict, total=False):
    """The inner state. Lists of one turn are aligned by index: sample i has report i and score i."""

    problem: dict[str, Any]
    run_id: str
    accept_threshold: float | None
    """The P(correct) that an answer needs: as set, or the verifier's own where there are no public tests."""
    probes: list[str]
    """Inputs on which candidates are compared; see `mucode_agent.probes`."""
    turns: list[dict[str, Any]]
    """Finished turns, oldest first."""
    samples: list[dict[str, Any]]
    """Programs are read from their texts again wherever they are needed, so that each is saved once."""
    reports: list[dict[str, Any]]
    scores: list[dict[str, Any] | None]
    usage: dict[str, Any]
    decision: dict[str, Any]
    solution: dict[str, Any]
    remaining_steps: RemainingSteps


class Settings(Record):
    """How a solver searches. Together with model, verifier and problem it determines every candidate."""

    n: Annotated[int, Field(ge=1, le=4096)] = 5
    """Candidates per turn (N of the paper's algorithm 2)."""
    max_turns: Annotated[int, Field(ge=1, le=1000)] = 3
    """Turns at most (T)."""
    wave: Annotated[int, Field(ge=1)] | None = None
    """Candidates drawn before the route is asked again; None draws all n at once."""
    selector: Selector = "tests+verifier"
    """How the best candidate is chosen; see `selection.rank_key`."""
    accept_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """P(correct) that an answer needs. None asks the public tests only or, where there are none, the threshold for
    which the verifier's card promises a precision."""
    least_gain: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What a wave must add to P(best) for another one to be drawn in the same turn."""
    trust_calibration: bool = False
    """Whether `accept_threshold` may rest on a verifier that was calibrated on another generator's programs."""
    budget: Budget = Budget()
    approve: bool = False
    """Whether a person is asked, by LangGraph's `interrupt`, before an answer is accepted. Needs a checkpointer."""
    tools_per_candidate: Annotated[int, Field(ge=0, le=64)] = 0
    """Calls of `run_python` that the generator may make while it writes one candidate, in the same sandbox and without
    any test; needs a model that can call tools. Each call is another request."""
    probes: Annotated[int, Field(ge=0, le=256)] = MOST
    """Inputs on which candidates are run beside the tests, to compare what they do. 0 compares nothing."""
    proposed_probes: Annotated[int, Field(ge=0, le=64)] = 0
    """Calls asked of the model beside those, in one more request."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """Of sampling; 0 is greedy. None leaves it as the model has it: 0.7 where the model is a string."""
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    """Of one completion. None leaves it as the model has it: 1024 where the model is a string."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Same seed, model and problem: same candidates."""


def create_solver(
    model: str | Generator,
    *,
    sandbox: str | Sandbox = "local",
    verifier: str | Verifier = DEFAULT,
    trace: TraceSink | None = None,
    request_timeout: float | None = None,
    checkpointer: Checkpointer = None,
    name: str = "mucode",
    **settings: Any,
) -> Solver:
    """The solver as a compiled graph: `{"problem": …}` in, `{"solution": …}` out, in JSON form.

    Args:
        model: A model string (see `models.load_model`), a LangChain chat model, or a runnable that answers messages.
        sandbox: Where candidates run: `local`, `e2b`, or any `Sandbox`.
        verifier: Scores a turn's candidates: a `Verifier`, or a string that names one (see `verifiers.load_verifier`).
        trace: Where every candidate and decision is recorded.
        request_timeout: Seconds for one request to the server that a model string names; None is 600 for a URL, else
            the provider's own.
        checkpointer: As for `StateGraph.compile`.
        name: Of the compiled graph.
        settings: The fields of `Settings`: n, max_turns, wave, selector, accept_threshold, least_gain,
            trust_calibration, budget, approve, tools_per_candidate, probes, proposed_probes, temperature, max_tokens,
            seed.

    Raises:
        ProblemError: A setting is unknown or out of its range. When run: the problem or the model cannot be used.
        InfrastructureError: When run: the model, sandbox or verifier failed.
    """
    graph = build_solver(
        model, sandbox=sandbox, verifier=verifier, trace=trace, request_timeout=request_timeout, **settings
    )
    return graph.compile(checkpointer=checkpointer, name=name)


def build_solver(
    model: str | Generator,
    *,
    sandbox: str | Sandbox = "local",
    verifier: str | Verifier = DEFAULT,
    trace: TraceSink | None = None,
    request_timeout: float | None = None,
    **settings: Any,
) -> StateGraph[SolverState, None, SolverInput, SolverOutput]:
    """The uncompiled graph of `create_solver`, for callers that compile it their own way."""
    _check_parts(model, sandbox, verifier, trace)
    load = functools.partial(load_model, timeout=request_timeout)
    scorer = load_verifier(verifier) if isinstance(verifier, str) else verifier
    nodes = _Nodes(model, sandbox, scorer, trace or NullTrace(), _settings(settings), load)
    graph = StateGraph(SolverState, input_schema=SolverInput, output_schema=SolverOutput)
    graph.add_node("prepare", nodes.prepare)
    graph.add_node("generate", RunnableLambda(nodes.generate, nodes.agenerate, name="generate"))
    graph.add_node("execute", RunnableLambda(nodes.execute, nodes.aexecute, name="execute"))
    graph.add_node("verify", RunnableLambda(nodes.verify, nodes.averify, name="verify"))
    graph.add_node("select", nodes.select)
    graph.add_edge(START, "prepare")
    graph.add_edge("generate", "execute")
    graph.add_edge("execute", "verify")
    graph.add_edge("verify", "select")
    if nodes.settings.proposed_probes:
        graph.add_node("propose", RunnableLambda(nodes.propose, nodes.apropose, name="propose"))
        graph.add_conditional_edges("prepare", _takes_calls, {True: "propose", False: "generate"})
        graph.add_edge("propose", "generate")
    else:
        graph.add_edge("prepare", "generate")
    onward: dict[Hashable, str] = {"draw": "generate", "next_turn": "generate", "accept": END, "stop": END}
    if nodes.settings.approve:
        graph.add_node("approve", nodes.approve)
        graph.add_conditional_edges("approve", _action, {key: onward[key] for key in ("accept", "next_turn", "stop")})
        onward["ask"] = "approve"
    graph.add_conditional_edges("select", _action, onward)
    return graph


def _action(state: SolverState) -> str:
    action: str = state["decision"]["action"]
    return action


def _takes_calls(state: SolverState) -> bool:
    return state["problem"]["entry_point"] is not None


def _check_parts(model: object, sandbox: object, verifier: object, trace: object) -> None:
    """What would otherwise fail in the middle of a solve."""
    if not isinstance(model, str | Runnable):
        raise ProblemError(
            f"model must be a model string, a chat model or a runnable, got {_kind(model)}; "
            "wrap a function in RunnableLambda"
        )
    if not isinstance(sandbox, str) and not callable(getattr(sandbox, "submit", None)):
        raise ProblemError(f"sandbox must be 'local', 'e2b' or an object with submit, got {_kind(sandbox)}")
    if not isinstance(verifier, str) and not callable(getattr(verifier, "score", None)):
        raise ProblemError(
            f"verifier must be a string or have a method score, got {_kind(verifier)}; give 'none' to score nothing"
        )
    if trace is not None and not callable(getattr(trace, "write", None)):
        raise ProblemError(f"trace must have a method write, such as JsonlTrace(path), got {_kind(trace)}")


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _settings(fields: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        cause = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in cause["loc"])
        if cause["type"] == "extra_forbidden":
            known = Budget if cause["loc"][0] == "budget" else Settings
            raise ProblemError(f"{where} is no setting; there are {', '.join(known.model_fields)}") from None
        raise ProblemError(f"{where}: {cause['msg'].lower()}, got {cause['input']!r}") from None


class _Nodes:
    """The graph's nodes: each reads state and returns what it changed. A node that waits has an async twin."""

    def __init__(
        self,
        model: str | Generator,
        sandbox: str | Sandbox,
        verifier: Verifier,
        trace: TraceSink,
        settings: Settings,
        load: Callable[[str], Generator],
    ) -> None:
        self._model_spec, self._sandbox_spec, self._load = model, sandbox, load
        self._loaded_model: Generator | None = None
        self._loaded_sandbox: Sandbox | None = None
        self._verifier, self._trace, self.settings = verifier, trace, settings
        self._lock = threading.Lock()

    # Loaded at first use, so that building a graph costs nothing.

    def _model(self) -> Generator:
        with self._lock:
            if self._loaded_model is None:
                spec = self._model_spec
                self._loaded_model = self._load(spec) if isinstance(spec, str) else spec
            return self._loaded_model

    def _sandbox(self) -> Sandbox:
        with self._lock:
            if self._loaded_sandbox is None:
                spec = self._sandbox_spec
                self._loaded_sandbox = load_sandbox(spec) if isinstance(spec, str) else spec
            return self._loaded_sandbox

    def _started_sandbox(self) -> Sandbox:
        """Its first job would start it, and an event loop must not wait for that."""
        sandbox = self._sandbox()
        _ = sandbox.isolation
        return sandbox

    # --- prepare: a clean state, whatever the thread held before ---

    def prepare(self, state: SolverState, config: RunnableConfig) -> dict[str, Any]:
        if self.settings.approve and config.get("configurable", {}).get(_SAVER, self) is None:
            raise ProblemError(
                "approve=True waits for a person, and without a checkpointer nothing could resume the solve; "
                "give checkpointer= to create_solver, or one to the graph that it is embedded in"
            )
        given = state.get("problem")
        if not given:
            raise ProblemError("the solver's input has no key 'problem'; give {'problem': {…}}")
        problem = (given if isinstance(given, Problem) else read_problem(given)).public()
        settings = {
            "model": _name(self._model_spec),
            "verifier": self._verifier.name,
            "prompt": prompt_digest(),
            **self.settings.model_dump(mode="json"),
        }
        threshold = self.settings.accept_threshold
        if threshold is not None and self._verifier.calibrated_on is None:
            raise ProblemError(
                f"accept_threshold needs a calibrated verifier, and {self._verifier.name!r} gives no probability; "
                "give a calibrated one or leave accept_threshold out"
            )
        doubt = calibration_mismatch(self._verifier, self._model_spec)
        if threshold is None and not problem.public_tests and (doubt is None or self.settings.trust_calibration):
            threshold = self._verifier.accept_threshold
        if doubt is not None:
            if threshold is not None and not self.settings.trust_calibration:
                raise ProblemError(f"{doubt}; calibrate on this one's programs, or set trust_calibration")
            settings["warning"] = doubt
            if threshold is not None or not problem.public_tests:  # elsewhere nothing rests on a probability
                _emit("warning", warning=doubt)
        run = run_id(problem, settings)
        self._trace.write([ProblemRow(run_id=run, problem=problem, settings=settings)])
        return {
            "problem": _json(problem),
            "run_id": run,
            "accept_threshold": threshold,
            "probes": list(probes(problem, count=self.settings.probes)),
            "turns": [],
            "samples": [],
            "reports": [],
            "scores": [],
            "usage": _json(Usage()),
            "decision": {},
            "solution": {},
        }

    # --- propose: further inputs to compare candidates on

    def propose(self, state: SolverState, config: RunnableConfig) -> dict[str, Any]:
        started = time.monotonic()
        messages, options = self._proposal(state)
        return self._proposed(state, sample(self._model(), messages, config=config, **options), started)

    async def apropose(self, state: SolverState, config: RunnableConfig) -> dict[str, Any]:
        started = time.monotonic()
        messages, options = self._proposal(state)
        model = await asyncio.to_thread(self._model)
        return self._proposed(state, await asample(model, messages, config=config, **options), started)

    def _proposal(self, state: SolverState) -> tuple[list[BaseMessage], dict[str, Any]]:
        problem, settings = _problem(state), self.settings
        return ask_for_inputs(problem, settings.proposed_probes), {
            "n": 1,
            "seed": _seed(problem, settings.seed, 0),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }

    def _proposed(self, state: SolverState, samples: Sequence[Sample], started: float) -> dict[str, Any]:
        calls = calls_in(samples[0].text, state["problem"]["entry_point"])[: self.settings.proposed_probes]
        _emit("probes_proposed", probes=calls)
        usage = _usage(state).plus(seconds=time.monotonic() - started, samples=samples)
        return {
            "probes": list(dict.fromkeys([*calls, *state["probes"]])),
            "usage": _json(usage.model_copy(update={"candidates": 0})),
        }

    # --- generate ---

    def generate(self, state: SolverState, config: RunnableConfig) -> dict[str, Any]:
        started = time.monotonic()
        messages, options = self._request(state)
        draw = draft if "tool" in options else sample
        return self._generated(state, draw(self._model(), messages, config=config, **options), started)

    async def agenerate(self, state: SolverState, config: RunnableConfig) -> dict[str, Any]:
        started = time.monotonic()
        messages, options = self._request(state)
        model = await asyncio.to_thread(self._model)
        draw = adraft if "tool" in options else asample
        return self._generated(state, await draw(model, messages, config=config, **options), started)

    def _request(self, state: SolverState) -> tuple[list[BaseMessage], dict[str, Any]]:
        problem, turns, settings = _problem(state), _turns(state), self.settings
        drawn, number = len(state["samples"]), len(turns) + 1
        n = min(settings.wave or settings.n, settings.n - drawn)
        if (most := settings.budget.candidates) is not None:
            n = min(n, most - _usage(state).candidates)
        _emit("turn_started" if not drawn else "wave_started", turn=number, candidates=n)
        options: dict[str, Any] = {
            "n": n,
            "seed": _seed(problem, settings.seed, number) + drawn,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        if settings.tools_per_candidate:
            tool = create_run_python(self._sandbox(), limits=problem.limits)
            options |= {"tool": tool, "calls": settings.tools_per_candidate}
        return render(problem, turns), options

    def _generated(self, state: SolverState, samples: Sequence[Sample], started: float) -> dict[str, Any]:
        usage = _usage(state).plus(seconds=time.monotonic() - started, samples=samples)
        return {"samples": [*state["samples"], *map(_json, samples)], "usage": _json(usage)}

    # --- execute: each distinct program once ---

    def execute(self, state: SolverState) -> dict[str, Any]:
        started = time.monotonic()
        inputs = self._probes(state)
        jobs = self._jobs(state, inputs)
        fresh = dict(zip(jobs, run(self._sandbox(), jobs.values()), strict=True))
        return self._executed(state, inputs, fresh, started)

    async def aexecute(self, state: SolverState) -> dict[str, Any]:
        started = time.monotonic()
        inputs = self._probes(state)
        jobs = self._jobs(state, inputs)
        sandbox = await asyncio.to_thread(self._started_sandbox)
        fresh = dict(zip(jobs, await arun(sandbox, list(jobs.values())), strict=True))
        return self._executed(state, inputs, fresh, started)

    def _probes(self, state: SolverState) -> list[str]:
        """Those of the state; where the problem gave none, those for the parameters that the programs declare."""
        known = state["probes"] or state["reports"]
        return state["probes"] if known else list(probes(_problem(state), _codes(state), self.settings.probes))

    def _jobs(self, state: SolverState, inputs: Sequence[str]) -> dict[str, Job]:
        """The distinct programs that have no report yet, by normal form."""
        problem, codes = _problem(state), _codes(state)
        done = {normal_form(code) for code in codes[: len(state["reports"])]}
        new = {normal_form(code): code for code in reversed(codes[len(state["reports"]) :]) if code}
        return {form: problem.job(code, probes=inputs) for form, code in new.items() if form not in done}

    def _executed(
        self, state: SolverState, inputs: list[str], fresh: dict[str, ExecutionReport], started: float
    ) -> dict[str, Any]:
        if fresh and all(report.status == "infra" for report in fresh.values()):
            cause = next(iter(fresh.values())).error
            raise InfrastructureError(f"no candidate could be run: {cause}; see `python -m mucode_agent doctor`")
        if fresh and state["problem"]["public_tests"] and (fault := _fault_of_the_tests(fresh.values())):
            raise ProblemError(f"the public tests can judge no program: {fault}; fix the tests")
        codes, reports = _codes(state), list(state["reports"])
        by_form = {normal_form(code): report for code, report in zip(codes, reports, strict=False)}
        by_form |= {form: _json(report) for form, report in fresh.items()}
        for index in range(len(reports), len(codes)):
            reports.append(by_form[normal_form(codes[index])] if codes[index] else _json(NO_CODE))
            _emit(
                "candidate_executed",
                turn=len(state["turns"]) + 1,
                index=index,
                status=reports[index]["status"],
                tests_passed=sum(result["status"] == "passed" for result in reports[index]["results"]),
                tests=len(reports[index]["results"]),
            )
        usage = _usage(state).plus(seconds=time.monotonic() - started)
        return {"probes": inputs, "reports": reports, "usage": _json(usage)}

    # --- verify: the turn's candidates beside each other, again at every wave ---

    def verify(self, state: SolverState) -> dict[str, Any]:
        started = time.monotonic()
        candidates = _candidates({**state, "scores": [None] * len(state["samples"])})
        scores = self._verifier.score(_problem(state), candidates)
        if len(scores) != len(candidates):
            raise InfrastructureError(
                f"verifier {self._verifier.name} gave {len(scores)} scores for {len(candidates)} candidates; fix it"
            )
        for candidate, score in zip(candidates, scores, strict=True):
            _emit("candidate_scored", turn=candidate.turn, index=candidate.index, **_json(score))
        usage = _usage(state).plus(seconds=time.monotonic() - started)
        return {"scores": list(map(_json, scores)), "usage": _json(usage)}

    async def averify(self, state: SolverState, config: RunnableConfig) -> dict[str, Any]:
        del config
        return await asyncio.to_thread(self.verify, state)

    # --- select, decide, and ask a person ---

    def select(self, state: SolverState) -> dict[str, Any]:
        settings, number = self.settings, len(state["turns"]) + 1
        candidates = _candidates(state)
        chosen = select(candidates, settings.selector, seed=_seed(_problem(state), settings.seed, number))
        _emit("selected", turn=number, index=chosen)
        return self._decided(state, candidates, candidates[chosen], "pending" if settings.approve else "unneeded")

    def approve(self, state: SolverState) -> dict[str, Any]:
        candidates = _candidates(state)
        best = candidates[state["decision"]["selected"]]
        question = {
            "question": "Accept this program?",
            "problem_id": state["problem"]["id"],
            "code": best.code,
            "reason": state["decision"]["reason"],
        }
        while (review := _review(answer := interrupt(question))) is None:
            question["error"] = f"{answer!r} is no review; resume with true, false or {{'approved': …, 'comment': …}}"
        return self._decided(state, candidates, best, "given" if review.approved else "refused", review.comment)

    def _decided(
        self,
        state: SolverState,
        candidates: Sequence[Candidate],
        best: Candidate,
        approval: Approval,
        comment: str = "",
    ) -> dict[str, Any]:
        settings, problem, turns, usage = self.settings, _problem(state), _turns(state), _usage(state)
        decision = decide(
            best,
            has_tests=bool(problem.public_tests),
            turn=len(turns) + 1,
            max_turns=settings.max_turns,
            drawn=len(candidates),
            n=settings.n,
            usage=usage,
            budget=settings.budget,
            accept_threshold=state["accept_threshold"],
            before=state["decision"].get("probability") if state["decision"].get("action") == "draw" else None,
            least_gain=settings.least_gain,
            steps_left=state["remaining_steps"] > STEPS_PER_WAVE + settings.approve,
            approval=approval,
        )
        solution = self._solution(problem, turns, best, decision, usage)
        self._record(state, candidates, decision, solution)
        update: dict[str, Any] = {"decision": _json(decision)}
        if decision.action == "next_turn":
            finished = Turn(best=best, candidates=len(candidates), comment=comment)
            update |= {"turns": [*state["turns"], _json(finished)]}
            update |= {"samples": [], "reports": [], "scores": []}
        if solution is not None:
            update["solution"] = _json(solution)
        return update

    def _solution(
        self, problem: Problem, turns: Sequence[Turn], best: Candidate, decision: Decision, usage: Usage
    ) -> Solution | None:
        if decision.stop_reason is None:
            return None
        if decision.action != "accept":
            best = best_over_turns([*(turn.best for turn in turns), best], self.settings.selector)
        return Solution(
            problem_id=problem.id,
            solved=decision.action == "accept",
            best=best,
            stop_reason=decision.stop_reason,
            turns=len(turns) + 1,
            usage=usage,
        )

    def _record(
        self, state: SolverState, candidates: Sequence[Candidate], decision: Decision, solution: Solution | None
    ) -> None:
        """Events for who watches, rows for who learns: the candidates of this wave, then what was decided."""
        run, problem_id, before = state["run_id"], state["problem"]["id"], state["decision"]
        recorded = before["drawn"] if before.get("action") in ("draw", "ask") else 0
        _emit("routed", **_json(decision))
        self._trace.write(
            [
                *(CandidateRow(run_id=run, problem_id=problem_id, candidate=c) for c in candidates[recorded:]),
                DecisionRow(run_id=run, problem_id=problem_id, decision=decision, solution=solution),
            ]
        )


_TESTS_FAULTS = (
    "no test used the program",
    "the test failed before it called the program",
    "the set-up code failed",
    "the test ended the process",
)
"""How the runner says that a test judges nothing, whatever the program."""


def _fault_of_the_tests(reports: Iterable[ExecutionReport]) -> str | None:
    """Why no program can pass; None where one can."""
    errors = [(report.first_failure or report).error if report.status == "unjudged" else "" for report in reports]
    return errors[0] if all(error.startswith(_TESTS_FAULTS) for error in errors) else None


NO_CODE = ExecutionReport(status="missing_entry_point", error="The reply holds no Python code.")
"""The report of a reply without a program: nothing was run."""


# --- state and records ---------------------------------------------------------------------------------------------


def _json(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json")


def _problem(state: SolverState) -> Problem:
    return Problem.model_validate(state["problem"])


def _turns(state: SolverState) -> list[Turn]:
    return [Turn.model_validate(turn) for turn in state["turns"]]


def _usage(state: SolverState) -> Usage:
    return Usage.model_validate(state["usage"])


_code = functools.lru_cache(maxsize=1024)(extract_code)


def _codes(state: SolverState) -> list[str]:
    entry_point = state["problem"]["entry_point"]
    return [_code(sample["text"], entry_point) for sample in state["samples"]]


def _candidates(state: SolverState) -> list[Candidate]:
    """The turn's candidates so far."""
    lists = zip(state["samples"], _codes(state), state["reports"], state["scores"], strict=True)
    return [
        Candidate(
            turn=len(state["turns"]) + 1,
            index=index,
            sample=Sample.model_validate(sample),
            code=code,
            report=ExecutionReport.model_validate(report),
            score=None if score is None else Score.model_validate(score),
        )
        for index, (sample, code, report, score) in enumerate(lists)
    ]


def _review(answer: Any) -> Review | None:
    """What a person resumed with: true or false, or `{"approved": …, "comment": …}`; None where it is neither."""
    try:
        return Review(approved=answer) if isinstance(answer, bool) else Review.model_validate(answer)
    except ValidationError:
        return None


def _seed(problem: Problem, seed: int, turn: int) -> int:
    """The first sample's seed of a turn, below 2^30; sample i has this plus i, so a larger n only adds samples."""
    key = f"{seed}/{turn}/{problem.prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:4]) >> 2


def _emit(event: str, **fields: Any) -> None:
    get_stream_writer()({"event": f"mucode.{event}", **fields})


def _name(model: str | Generator) -> str:
    return model if isinstance(model, str) else model_name(model)
