"""The solver: generate → execute → verify → select as LangGraph nodes, looped by a route.

One turn draws up to n candidates in waves, runs them on the public tests and on probes, scores them together, and
selects the best. Then the route accepts it, draws more, feeds its failure back for another turn, or stops. Two nodes
are optional: `propose` has the model propose further probes, `approve` asks a person before an answer is accepted.
State is plain JSON; model, sandbox and verifier are `parts` outside of it, so any checkpointer works.
"""

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, TypedDict, TypeVar, Unpack

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.config import merge_configs
from langgraph.config import get_config, get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.managed import RemainingSteps
from langgraph.runtime import get_runtime
from langgraph.types import Checkpointer, interrupt
from pydantic import ValidationError

from mucode_agent.calls import Call, Steps, blocking, both_forms
from mucode_agent.extraction import extract_code
from mucode_agent.files import first_cause
from mucode_agent.graphs.drafting import draft
from mucode_agent.graphs.failure import blamed
from mucode_agent.graphs.parts import Generator, OwningGraph, Parts, kind
from mucode_agent.graphs.review import question, read_review
from mucode_agent.graphs.selection import Approval, best_over_turns, decide, normal_form, select
from mucode_agent.graphs.settings import CallSettings, Options, Settings, check_settings, settings_of_call
from mucode_agent.models.load import load_model
from mucode_agent.models.sampling import asample, sample
from mucode_agent.probes import calls_in, probes
from mucode_agent.problems import read_problem
from mucode_agent.prompts import ask_for_inputs, outcome, prompt_digest, render
from mucode_agent.tools.langchain import create_run_python
from mucode_agent.tools.sandbox import arun, run
from mucode_agent.traces import CandidateRow, DecisionRow, NullTrace, ProblemRow, TraceSink, run_id
from mucode_agent.types import (
    Candidate,
    ContextOverflowError,
    Decision,
    ExecutionReport,
    InfrastructureError,
    Job,
    MucodeError,
    Problem,
    ProblemError,
    Record,
    Sample,
    Sandbox,
    Score,
    Solution,
    StopReason,
    Turn,
    Usage,
    Verifier,
)
from mucode_agent.verifiers import DEFAULT
from mucode_agent.verifiers.card import calibration_mismatch

STATE_VERSION: Final = 1
"""Version of the inner state in checkpoints; a newer one is refused."""

_SAVER = "__pregel_checkpointer"
"""LangGraph's key for the checkpointer of this run, its own or a parent's; None if there is none."""

STEPS_PER_WAVE = 4
"""LangGraph's supersteps from `generate` to `select`; `approve` is one more."""


class SolverInput(TypedDict):
    """The graph's input."""

    problem: dict[str, Any]
    """A problem in JSON form: ours, or a row of HumanEval(+) or MBPP(+)."""


class SolverOutput(TypedDict):
    """The graph's output."""

    solution: dict[str, Any]
    """A `Solution` in JSON form."""


class SolverState(TypedDict, total=False):
    """The inner state. Lists of one turn are aligned by index: sample i has report i and score i."""

    version: int
    settings: dict[str, Any]
    """The settings of this solve: the solver's own, updated by this call's `context`."""
    problem: dict[str, Any]
    run_id: str
    accept_threshold: float | None
    """The least P(correct) of an accepted answer: as set, or the verifier's own if there are no public tests."""
    probes: list[str]
    """Inputs on which candidates are compared; see `mucode_agent.probes`."""
    turns: list[dict[str, Any]]
    """Finished turns, oldest first."""
    samples: list[dict[str, Any]]
    """Programs are extracted from the texts again wherever they are needed, so each text is saved once."""
    reports: list[dict[str, Any]]
    scores: list[dict[str, Any] | None]
    usage: dict[str, Any]
    decision: dict[str, Any]
    solution: dict[str, Any]
    remaining_steps: RemainingSteps


class Solver(OwningGraph[SolverState, Options | Settings, SolverInput, SolverOutput]):
    """The compiled graph of `create_solver`."""


def create_solver(
    model: str | Generator,
    *,
    sandbox: str | Sandbox = "local",
    verifier: str | Verifier = DEFAULT,
    trace: TraceSink | None = None,
    request_timeout: float | None = None,
    checkpointer: Checkpointer = None,
    name: str = "mucode",
    **settings: Unpack[Options],
) -> Solver:
    """The solver as a compiled graph: `{"problem": …}` in, `{"solution": …}` out, in JSON form.

    It owns what it loads: `close()` it, or use it in `with`. To change settings for one call, pass `context={"n": 3}`.

    Args:
        model: A model string (see `load_model`), a LangChain chat model, or a runnable from messages to a message.
        sandbox: Where candidates run: `local`, which all solvers of the process share, `e2b`, or any `Sandbox`.
        verifier: Scores a turn's candidates: a `Verifier`, or a string that names one (see `verifiers.load_verifier`).
        trace: Where every candidate and decision is recorded.
        request_timeout: Seconds for one request to the server that a model string names; None means 600 for a URL, else
            the provider's own.
        checkpointer: As for `StateGraph.compile`.
        name: The compiled graph's name.
        settings: The fields of `Settings`: n, max_turns, wave, selector, accept_threshold, least_gain,
            trust_calibration, budget, approve, tools_per_candidate, probes, proposed_probes, partial,
            temperature, top_p, max_tokens, seed.

    Raises:
        ProblemError: A setting is unknown or out of its range. When run: the problem or the model cannot be used.
        InfrastructureError: When run: the model, sandbox or verifier failed; `solution` holds the best so far.
    """
    graph, parts = _build(model, sandbox, verifier, trace, request_timeout, settings)
    return Solver.of(graph.compile(checkpointer=checkpointer, name=name), parts)


def build_solver(
    model: str | Generator,
    *,
    sandbox: str | Sandbox = "local",
    verifier: str | Verifier = DEFAULT,
    trace: TraceSink | None = None,
    request_timeout: float | None = None,
    **settings: Unpack[Options],
) -> StateGraph[SolverState, Options | Settings, SolverInput, SolverOutput]:
    """The uncompiled graph of `create_solver`, for callers that compile it themselves."""
    return _build(model, sandbox, verifier, trace, request_timeout, settings)[0]


def _build(
    model: str | Generator,
    sandbox: str | Sandbox,
    verifier: str | Verifier,
    trace: TraceSink | None,
    request_timeout: float | None,
    settings: Options,
) -> tuple[StateGraph[SolverState, Any, SolverInput, SolverOutput], Parts]:
    if trace is not None and not callable(getattr(trace, "write", None)):
        raise ProblemError(f"trace must have a method write, such as JsonlTrace(path), got {kind(trace)}")
    parts = Parts(model, sandbox, verifier, functools.partial(load_model, timeout=request_timeout))
    nodes = _Nodes(parts, trace or NullTrace(), check_settings(settings))
    graph = StateGraph(SolverState, context_schema=CallSettings, input_schema=SolverInput, output_schema=SolverOutput)
    graph.add_node("prepare", nodes.prepare)
    for node in (nodes.propose, nodes.generate, nodes.execute, nodes.verify, nodes.select, nodes.approve):
        graph.add_node(node.__name__, nodes.guarded(node))
    graph.add_edge(START, "prepare")
    graph.add_conditional_edges("prepare", nodes.proposes, {True: "propose", False: "generate"})
    graph.add_edge("propose", "generate")
    graph.add_edge("generate", "execute")
    graph.add_edge("execute", "verify")
    graph.add_edge("verify", "select")
    onward: dict[Hashable, str] = {"draw": "generate", "next_turn": "generate", "accept": END, "stop": END}
    graph.add_conditional_edges("select", _action, {**onward, "ask": "approve"})
    graph.add_conditional_edges("approve", _action, {key: onward[key] for key in ("accept", "next_turn", "stop")})
    parts.end_with(graph)
    return graph, parts


def _action(state: SolverState) -> str:
    action: str = state["decision"]["action"]
    return action


_R = TypeVar("_R", bound=Record)
_Update = dict[str, Any]
_Node = Callable[[SolverState], Steps[_Update]]


class _Nodes:
    """The graph's nodes: each reads state and returns what it changed."""

    def __init__(self, parts: Parts, trace: TraceSink, settings: Settings) -> None:
        self._parts, self._trace, self._own_settings = parts, trace, settings

    def guarded(self, node: _Node) -> RunnableLambda[SolverState, _Update]:
        """The node, skipped once the solve has ended. A failure ends the solve, or raises with its best so far."""

        async def run_node(state: SolverState) -> _Update:
            if _checked(state).get("solution"):
                return {}
            try:
                return await node(state)
            except (MucodeError, ValidationError) as error:
                return self._failed(state, error)

        return RunnableLambda(*both_forms(run_node), name=node.__name__)

    def _failed(self, state: SolverState, error: MucodeError | ValidationError) -> _Update:
        """Ends the solve with its best candidate so far, or raises the error with that candidate."""
        if isinstance(error, ValidationError):
            raise _unreadable(error) from error
        candidates, turns, usage = _judged(state), _turns(state), _usage(state)
        bests = [turn.best for turn in turns]
        if candidates:
            seed = _seed(_problem(state), self._settings(state).seed, len(turns) + 1)
            bests.append(candidates[select(candidates, self._settings(state).selector, seed=seed)])
        if not bests:
            raise error
        stop: StopReason = "context_overflow" if isinstance(error, ContextOverflowError) else "failure"
        best = best_over_turns(bests, self._settings(state).selector)
        solution = Solution(
            problem_id=state["problem"]["id"],
            solved=False,
            best=best,
            stop_reason=stop,
            turns=len(bests),
            usage=usage,
        )
        partial = isinstance(error, InfrastructureError) and self._settings(state).partial
        if not partial and stop != "context_overflow":
            error.solution = error.solution or solution
            raise error
        decision = Decision(
            action="stop",
            reason=str(error),
            turn=len(bests),
            drawn=len(candidates) if candidates else turns[-1].candidates,
            selected=bests[-1].index,
            stop_reason=stop,
        )
        self._record(state, candidates, decision, solution)
        return {"decision": _json(decision), "solution": _json(solution)}

    def _settings(self, state: SolverState) -> Settings:
        return _read(Settings, state["settings"]) if state.get("settings") else self._own_settings

    # --- prepare: a clean state, whatever the thread contained before ---

    def prepare(self, state: SolverState, config: RunnableConfig) -> dict[str, Any]:
        chosen = settings_of_call(self._own_settings, get_runtime().context)
        if chosen.approve and config.get("configurable", {}).get(_SAVER, self) is None:
            raise ProblemError(
                "approve=True waits for a person, and without a checkpointer the solve could not resume; "
                "give checkpointer= to create_solver, or to the graph that embeds it"
            )
        given = state.get("problem")
        if not given:
            raise ProblemError("the solver's input has no key 'problem'; give {'problem': {…}}")
        problem = (given if isinstance(given, Problem) else read_problem(given)).public()
        verifier = self._parts.verifier
        settings = {
            "model": self._parts.model_name,
            "verifier": verifier.name,
            "prompt": prompt_digest(),
            **chosen.model_dump(mode="json"),
        }
        threshold = chosen.accept_threshold
        if threshold is not None and verifier.calibrated_on is None:
            raise ProblemError(
                f"accept_threshold needs a calibrated verifier, and {verifier.name!r} gives no probability; "
                "give a calibrated one or leave accept_threshold out"
            )
        mismatch = calibration_mismatch(verifier, self._parts.model_spec)
        if threshold is None and not problem.public_tests and (mismatch is None or chosen.trust_calibration):
            threshold = verifier.accept_threshold
        if mismatch is not None:
            if threshold is not None and not chosen.trust_calibration:
                raise ProblemError(f"{mismatch}; calibrate on this one's programs, or set trust_calibration")
            settings["warning"] = mismatch
        run = run_id(problem, settings)
        self._trace.write([ProblemRow(run_id=run, problem=problem, settings=settings)])
        begun: SolverState = {"problem": _json(problem), "run_id": run}
        if mismatch is not None and (threshold is not None or not problem.public_tests):
            _emit("warning", begun, warning=mismatch)  # otherwise no decision uses a probability
        return {
            **begun,
            "version": STATE_VERSION,
            "settings": _json(chosen),
            "accept_threshold": threshold,
            "probes": list(probes(problem, count=chosen.probes)),
            "turns": [],
            "samples": [],
            "reports": [],
            "scores": [],
            "usage": _json(Usage()),
            "decision": {},
            "solution": {},
        }

    def proposes(self, state: SolverState) -> bool:
        return bool(self._settings(state).proposed_probes) and state["problem"]["entry_point"] is not None

    # --- propose: further inputs to compare candidates on

    async def propose(self, state: SolverState) -> _Update:
        started = time.monotonic()
        problem, settings = _problem(state), self._settings(state)
        samples = await Call(
            sample,
            asample,
            await blocking(self._parts.model),
            ask_for_inputs(problem, settings.proposed_probes),
            n=1,
            config=_traced(state, "mucode.propose"),
            seed=_seed(problem, settings.seed, 0),
            **settings.request(),
        )
        calls = calls_in(samples[0].text, state["problem"]["entry_point"])[: settings.proposed_probes]
        _emit("probes_proposed", state, probes=calls)
        usage = _usage(state).plus(seconds=time.monotonic() - started, samples=samples)
        return {
            "probes": list(dict.fromkeys([*calls, *state["probes"]])),
            "usage": _json(usage.model_copy(update={"candidates": 0})),
        }

    # --- generate ---

    async def generate(self, state: SolverState) -> _Update:
        started = time.monotonic()
        messages, options = self._request(state)
        model = await blocking(self._parts.model)
        try:
            if "tool" in options:
                samples = await draft(model, messages, **options)
            else:
                samples = await Call(sample, asample, model, messages, **options)
        except InfrastructureError as error:
            samples = self._paid_for(state, error)
        usage = _usage(state).plus(seconds=time.monotonic() - started, samples=samples)
        return {"samples": [*state["samples"], *map(_json, samples)], "usage": _json(usage)}

    def _paid_for(self, state: SolverState, error: InfrastructureError) -> list[Sample]:
        """What was drawn before the failure is a wave of its own; the route asks for the rest again."""
        if not error.samples:
            raise error
        _emit("warning", state, warning=f"{len(error.samples)} candidates were drawn, then {error}")
        return list(error.samples)

    def _request(self, state: SolverState) -> tuple[list[BaseMessage], dict[str, Any]]:
        problem, turns, settings = _problem(state), _turns(state), self._settings(state)
        drawn, number = len(state["samples"]), len(turns) + 1
        seed, most_n = _missing(state, first := _seed(problem, settings.seed, number), settings.n)
        n = min(settings.wave or settings.n, most_n)
        if (most := settings.budget.candidates) is not None:
            n = min(n, most - _usage(state).candidates)
        _emit("turn_started" if not drawn else "wave_started", state, turn=number, candidates=n)
        options: dict[str, Any] = {
            "n": n,
            "config": _traced(state, "mucode.generate", turn=number, candidate=seed - first),
            "seed": seed,
            **settings.request(),
        }
        if settings.tools_per_candidate:
            tool = create_run_python(self._parts.sandbox(), limits=problem.limits)
            options |= {"tool": tool, "calls": settings.tools_per_candidate}
        return render(problem, turns), options

    # --- execute: each distinct program once ---

    async def execute(self, state: SolverState) -> _Update:
        started = time.monotonic()
        inputs = self._probes(state)
        jobs = self._jobs(state, inputs)
        fresh = dict(zip(jobs, await self._run(jobs.values()), strict=True))
        return self._executed(state, inputs, fresh, started)

    async def _run(self, jobs: Iterable[Job]) -> list[ExecutionReport]:
        with blamed("the sandbox"):
            sandbox = await Call(self._parts.sandbox, functools.partial(asyncio.to_thread, self._parts.started_sandbox))
            reports: list[ExecutionReport] = await Call(run, arun, sandbox, jobs)
            return reports

    def _probes(self, state: SolverState) -> list[str]:
        """The state's probes; if the problem gave none, those for the parameters that the programs declare."""
        known = state["probes"] or state["reports"]
        return state["probes"] if known else list(probes(_problem(state), _codes(state), self._settings(state).probes))

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
                state,
                turn=len(state["turns"]) + 1,
                index=index,
                status=reports[index]["status"],
                tests_passed=sum(result["status"] == "passed" for result in reports[index]["results"]),
                tests=len(reports[index]["results"]),
            )
        usage = _usage(state).plus(seconds=time.monotonic() - started)
        return {"probes": inputs, "reports": reports, "usage": _json(usage)}

    # --- verify: the turn's candidates together, again at every wave ---

    async def verify(self, state: SolverState) -> _Update:
        started = time.monotonic()
        candidates = candidates_of({**state, "scores": [None] * len(state["samples"])})
        verifier = self._parts.verifier
        with blamed(f"verifier {verifier.name}"):
            given = await blocking(verifier.score, _problem(state), candidates)
            scores = list(map(Score.model_validate, given))
        if len(scores) != len(candidates):
            raise InfrastructureError(
                f"verifier {verifier.name} gave {len(scores)} scores for {len(candidates)} candidates; fix it"
            )
        for candidate, score in zip(candidates, scores, strict=True):
            _emit("candidate_scored", state, turn=candidate.turn, index=candidate.index, **_json(score))
        usage = _usage(state).plus(seconds=time.monotonic() - started)
        return {"scores": list(map(_json, scores)), "usage": _json(usage)}

    # --- select, decide, and ask a person ---

    async def select(self, state: SolverState) -> _Update:
        settings, number = self._settings(state), len(state["turns"]) + 1
        candidates = candidates_of(state)
        chosen = select(candidates, settings.selector, seed=_seed(_problem(state), settings.seed, number))
        _emit("selected", state, turn=number, index=chosen)
        return self._decided(state, candidates, candidates[chosen], "pending" if settings.approve else "unneeded")

    async def approve(self, state: SolverState) -> _Update:
        """Asks until there is a review. A program that the person edited runs first; if it fails, the person is asked
        again.
        """
        candidates, problem = candidates_of(state), _problem(state)
        best = candidates[state["decision"]["selected"]]
        asked = question(problem.id, best, state["decision"]["reason"])
        while True:
            review = read_review(answer := interrupt(asked))
            if review is None:
                asked["error"] = (
                    f"{answer!r} is no review; resume with true, false, {{'approved': …, 'comment': …, 'code': …}} "
                    "or a decision of HumanInTheLoopMiddleware"
                )
            elif not review.approved or review.code is None or review.code == best.code:
                return self._decided(state, candidates, best, "given" if review.approved else "refused", review.comment)
            else:
                [report] = await self._run([problem.job(review.code, probes=state["probes"])])
                if report.status == "infra":
                    raise InfrastructureError(f"the edited program could not be run: {report.error}; resume again")
                if report.status == ("passed" if problem.public_tests else "unjudged"):
                    return self._edited(state, candidates, best, review.code, report)
                asked["error"] = f"the edited program was run, and is not accepted: {outcome(report)}"

    def _edited(
        self, state: SolverState, candidates: Sequence[Candidate], best: Candidate, code: str, report: ExecutionReport
    ) -> dict[str, Any]:
        """The end of a solve with an answer that a person wrote."""
        sample = Sample(text=f"```python\n{code}\n```", seed=best.sample.seed, finish_reason="edited")
        mine = Candidate(turn=best.turn, index=len(candidates), sample=sample, code=code, report=report)
        tested = "which passes all public tests" if report.passed else "which runs"
        decision = Decision(
            action="accept",
            reason=f"a person edited the program, {tested}, and approved it",
            turn=mine.turn,
            drawn=len(candidates),
            selected=mine.index,
            stop_reason="accepted",
        )
        solution = self._solution(state, mine, decision)
        self._record(state, [*candidates, mine], decision, solution)
        return {"decision": _json(decision), "solution": _json(solution)}

    def _decided(
        self,
        state: SolverState,
        candidates: Sequence[Candidate],
        best: Candidate,
        approval: Approval,
        comment: str = "",
    ) -> dict[str, Any]:
        settings, problem, turns, usage = self._settings(state), _problem(state), _turns(state), _usage(state)
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
        solution = self._solution(state, best, decision) if decision.stop_reason is not None else None
        self._record(state, candidates, decision, solution)
        update: dict[str, Any] = {"decision": _json(decision)}
        if decision.action == "next_turn":
            finished = Turn(best=best, candidates=len(candidates), comment=comment)
            update |= {"turns": [*state["turns"], _json(finished)]}
            update |= {"samples": [], "reports": [], "scores": []}
        if solution is not None:
            update["solution"] = _json(solution)
        return update

    def _solution(self, state: SolverState, best: Candidate, decision: Decision) -> Solution:
        turns = _turns(state)
        if decision.action != "accept":
            best = best_over_turns([*(turn.best for turn in turns), best], self._settings(state).selector)
        assert decision.stop_reason is not None
        return Solution(
            problem_id=state["problem"]["id"],
            solved=decision.action == "accept",
            best=best,
            stop_reason=decision.stop_reason,
            turns=len(turns) + 1,
            usage=_usage(state),
        )

    def _record(
        self, state: SolverState, candidates: Sequence[Candidate], decision: Decision, solution: Solution | None
    ) -> None:
        """Writes events and trace rows: the candidates of this wave, then the decision."""
        run, problem_id, before = state["run_id"], state["problem"]["id"], state["decision"]
        recorded = before["drawn"] if before.get("action") in ("draw", "ask") else 0
        _emit("routed", state, **_json(decision))
        self._trace.write(
            [
                *(CandidateRow(run_id=run, problem_id=problem_id, candidate=c) for c in candidates[recorded:]),
                DecisionRow(run_id=run, problem_id=problem_id, decision=decision, solution=solution),
            ]
        )


def _fault_of_the_tests(reports: Iterable[ExecutionReport]) -> str | None:
    """Why no program can pass; None if one can."""
    failures = [report.first_failure for report in reports]
    faults = [failure.error for failure in failures if failure is not None and failure.invalid_test]
    return faults[0] if len(faults) == len(failures) else None


NO_CODE = ExecutionReport(status="missing_entry_point", error="The reply holds no Python code.")
"""The report of a reply without a program: nothing was run."""


# --- state and records ---------------------------------------------------------------------------------------------


def _json(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json")


def _problem(state: SolverState) -> Problem:
    return _read(Problem, state["problem"])


def _turns(state: SolverState) -> list[Turn]:
    return [_read(Turn, turn) for turn in state["turns"]]


def _usage(state: SolverState) -> Usage:
    return _read(Usage, state["usage"])


_code = functools.lru_cache(maxsize=1024)(extract_code)


def _codes(state: SolverState) -> list[str]:
    entry_point = state["problem"]["entry_point"]
    return [_code(sample["text"], entry_point) for sample in state["samples"]]


def candidates_of(state: SolverState) -> list[Candidate]:
    """The turn's candidates so far; each needs its report and a place in `scores`."""
    lists = zip(state["samples"], _codes(state), state["reports"], state["scores"], strict=True)
    return [
        Candidate(
            turn=len(state["turns"]) + 1,
            index=index,
            sample=_read(Sample, sample),
            code=code,
            report=_read(ExecutionReport, report),
            score=None if score is None else _read(Score, score),
        )
        for index, (sample, code, report, score) in enumerate(lists)
    ]


def _judged(state: SolverState) -> list[Candidate]:
    """The turn's candidates that have a report, with their scores so far."""
    count = len(state["reports"])
    scores = [*state["scores"], *[None] * count][:count]
    return candidates_of({**state, "samples": state["samples"][:count], "scores": scores})


def _missing(state: SolverState, first: int, n: int) -> tuple[int, int]:
    """The first of the turn's n seeds without a sample, and how many follow it: a wave may be incomplete."""
    drawn = {sample["seed"] for sample in state["samples"]}
    seed = next((seed for seed in range(first, first + n) if seed not in drawn), first + len(drawn))
    end = next((seed for seed in range(seed, first + n) if seed in drawn), first + n)
    return seed, end - seed


def _read(kind: type[_R], data: dict[str, Any]) -> _R:
    """A record of the state. Fields of a newer version are ignored."""
    return kind.model_validate(data, extra="ignore")


def _checked(state: SolverState) -> SolverState:
    """Raises ProblemError for a checkpoint of a newer version."""
    if (version := state.get("version", 1)) > STATE_VERSION:
        raise ProblemError(
            f"this checkpoint was written by a newer mucode_agent (state version {version}; this one reads up to "
            f"{STATE_VERSION}): update the package, or solve the problem on a new thread"
        )
    return state


def _unreadable(error: ValidationError) -> ProblemError:
    return ProblemError(
        f"this version of mucode_agent cannot read this checkpoint ({error.title}: "
        f"{first_cause(error, 'the value')}): update the package, or solve the problem on a new thread"
    )


def _seed(problem: Problem, seed: int, turn: int) -> int:
    """The first sample's seed of a turn, below 2^30; sample i has this plus i, so a larger n only adds samples."""
    key = f"{seed}/{turn}/{problem.prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:4]) >> 2


def _traced(state: SolverState, name: str, **facts: int) -> RunnableConfig:
    """The node's config, with the run name, tag and metadata that LangChain's callbacks get for a request."""
    about = {"problem_id": state["problem"]["id"], "run_id": state["run_id"], **facts}
    metadata = {f"mucode_{key}": value for key, value in about.items()}
    return merge_configs(get_config(), {"run_name": name, "tags": ["mucode"], "metadata": metadata})


def _emit(event: str, state: SolverState, **fields: Any) -> None:
    whose = {"problem_id": state["problem"]["id"], "run_id": state["run_id"]}
    get_stream_writer()({"event": f"mucode.{event}", **whose, **fields})
