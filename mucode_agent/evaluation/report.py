"""The report of a run: one self-contained HTML page, and the same tables as Markdown.

The page loads nothing: figures are inline SVG, the solves are embedded as JSON, and its own script shows them as text
nodes only. Its content security policy allows only that script, by hash, so HTML in a candidate has no effect.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mucode_agent.evaluation.figures import figures
from mucode_agent.evaluation.results import Results, compute
from mucode_agent.evaluation.tables import for_markdown, tables
from mucode_agent.files import write_whole
from mucode_agent.graphs.selection import normal_form
from mucode_agent.runs.config import ARM_NAMES, Config, Identity
from mucode_agent.runs.directory import Judgement, Solve, read_problems
from mucode_agent.runs.reading import judgements_of, read_run
from mucode_agent.types import Candidate, Problem, ProblemError, StdioTest

TEXT_CHARS = 20_000
"""Maximum characters shown of one reply, program or test; the run directory has the full text."""

_FIGURE_WORDS = {
    "turns": "Accuracy when the search may use so many turns, with 95 % intervals.",
    "best-of-k": "Best of k independent samples by rule, with 95 % intervals over problems.",
    "calibration": "The verifier's probabilities against the observed share of right programs.",
}


def write_report(directory: Path, output: Path | None = None) -> tuple[Results, Path]:
    """Makes results.json, report.md, report.html and figures/ of a run directory from its rows.

    Works on an unfinished run too. `output` is the page's path, if it is not to be in the directory. Raises
    ProblemError if there is no run, or nothing is finished.
    """
    run, problems = read_run(directory), read_problems(directory)
    if any(arm.name not in ARM_NAMES for arm in run.config.identity.arms):
        raise ProblemError(f"{directory} holds rollouts, which have no report; count them with `traces stats`")
    shards = [shard for problem in problems if (shard := run.shard(problem)) is not None]
    config, judgements = run.config, judgements_of(shards)
    solves = [solve for shard in shards for solve in shard.solves]
    results = compute(config.identity, problems, solves, judgements)
    if results is None:
        raise ProblemError(f"{directory} has no problem finished in every arm yet; run `evaluate run` on it first")
    page = output or directory / "report.html"
    write_whole(directory / "results.json", results.model_dump_json(indent=2) + "\n")
    write_whole(directory / "report.md", markdown(results, config))
    try:
        (directory / "figures").mkdir(exist_ok=True)
    except OSError as error:
        raise ProblemError(
            f"cannot make {directory / 'figures'}: {error.strerror}; move what is in its place"
        ) from None
    drawn = figures(results)
    for name, svg in drawn.items():
        write_whole(directory / "figures" / f"{name}.svg", svg)
    write_whole(page, html(results, config, drawn, problems, solves, judgements))
    return results, page


def markdown(results: Results, config: Config) -> str:
    """Every table, under a heading with what was run, how, and when."""
    identity, seed = config.identity, config.identity.arms[0].seed
    variant = f"split {identity.split}{', testless' if identity.testless else ''}"
    head = [
        f"### {identity.benchmark}, {identity.model}",
        f"{config.started[:10]}. Seed {seed}, {results.finished} of {identity.problems} problems, {variant}.",
    ]
    if config.command:
        head.append(f"```\n{config.command}\n```")
    return "\n\n".join([*head, *(for_markdown(table) for table in tables(results))]) + "\n"


def html(
    results: Results,
    config: Config,
    drawn: Mapping[str, str],
    problems: Sequence[Problem],
    solves: Sequence[Solve],
    judgements: Mapping[tuple[str, str], Judgement],
) -> str:
    """The page, with figures as `drawn`. All text of models, problems and configuration is escaped or shown as text."""
    import jinja2

    place = files("mucode_agent.evaluation")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(place.joinpath("report.html.jinja").read_text())
    script = place.joinpath("report.js").read_text()
    return template.render(
        identity=config.identity,
        config=config,
        results=results,
        tables=tables(results),
        figures=[(name, svg, _FIGURE_WORDS[name]) for name, svg in drawn.items()],
        configuration=list(_configuration(config)),
        data=_script_safe(browser_data(config.identity, results, problems, solves, judgements)),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=place.joinpath("report.css").read_text(),
    )


def browser_data(
    identity: Identity,
    results: Results,
    problems: Sequence[Problem],
    solves: Sequence[Solve],
    judgements: Mapping[tuple[str, str], Judgement],
) -> dict[str, Any]:
    """The data of the page's trace browser: JSON, in which texts are stored once and referred to by number."""
    texts = _Texts()
    by_problem: dict[str, dict[str, Any]] = {
        problem.id: {
            "id": problem.id,
            "prompt": texts.number(problem.prompt),
            "tests": texts.number("\n".join(map(_test_text, problem.public_tests))),
            "private": len(problem.private_tests),
            "arms": {},
        }
        for problem in problems
    }
    for solve in solves:
        best = solve.solution.best
        by_problem[solve.problem_id]["arms"][solve.arm] = {
            "candidates": [_card(c, solve.problem_id, judgements, texts) for c in solve.candidates],
            "decisions": [
                [row.decision.turn, row.decision.selected, row.decision.action, row.decision.reason]
                for row in solve.decisions
            ],
            "answer": [best.turn, best.index],
            "accepted": solve.solution.solved,
            "stop": solve.solution.stop_reason,
            "right": results.outcomes.get(solve.problem_id, {}).get(solve.arm),
        }
    return {
        "problems": [problem for problem in by_problem.values() if problem["arms"]],
        "arms": [arm.name for arm in identity.arms],
        "verifier": identity.verifier != "none",
        "texts": texts.texts,
    }


class _Texts:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        shown = (
            text if len(text) <= TEXT_CHARS else f"{text[:TEXT_CHARS]}\n… ({len(text) - TEXT_CHARS} more characters)"
        )
        if shown not in self._numbers:
            self._numbers[shown] = len(self.texts)
            self.texts.append(shown)
        return self._numbers[shown]


def _card(
    candidate: Candidate, problem_id: str, judgements: Mapping[tuple[str, str], Judgement], texts: _Texts
) -> dict[str, Any]:
    report, score = candidate.report, candidate.score
    failure = report.first_failure if report else None
    judgement = judgements.get((problem_id, normal_form(candidate.code))) if candidate.code else None
    lines = []
    if failure is not None:
        lines = [
            failure.test,
            f"expected {failure.expected}" if failure.expected else "",
            f"actual   {failure.actual}" if failure.actual else "",
            failure.error,
            *failure.traceback,
        ]
    elif report is not None and not report.passed:
        lines = [report.error]
    return {
        "turn": candidate.turn,
        "index": candidate.index,
        "seed": candidate.sample.seed,
        "tokens": candidate.sample.completion_tokens,
        "finish": candidate.sample.finish_reason,
        "status": report.status if report else "not run",
        "passed": report.tests_passed if report else 0,
        "tests": len(report.results) if report else 0,
        "failure": texts.number("\n".join(line for line in lines if line)),
        "logit": score.logit if score else None,
        "probability": score.probability if score else None,
        "right": judgement.correct if judgement else (None if candidate.code else False),
        "verdict": f"{judgement.status}, {judgement.tests_passed}/{judgement.tests}" if judgement else "not judged",
        "code": texts.number(candidate.code),
        "reply": texts.number(candidate.sample.text),
    }


def _test_text(test: Any) -> str:
    return f"stdin:\n{test.stdin}\nstdout:\n{test.stdout}" if isinstance(test, StdioTest) else str(test.code)


def _script_safe(data: dict[str, Any]) -> str:
    """JSON that cannot end its script element, whatever its texts contain."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _configuration(config: Config) -> Iterator[tuple[str, str]]:
    identity = config.identity
    if config.command:
        yield "command", config.command
    yield "begun", config.started
    yield "benchmark", f"{identity.benchmark}, split {identity.split}{', testless' if identity.testless else ''}"
    yield "problems", f"{identity.problems}, sha256 {identity.benchmark_sha256}"
    yield "model", identity.model
    yield "verifier", identity.verifier
    search = identity.arms[-1]
    yield "selector", search.selector
    yield "accept threshold", "none" if search.accept_threshold is None else str(search.accept_threshold)
    for arm in identity.arms:
        yield f"search: {arm.name}", f"N={arm.n}, T={arm.max_turns}, temperature {arm.temperature:g}"
    yield "tokens at most", str(search.max_tokens)
    yield "seed", str(search.seed)
    yield "prompt", f"digest {identity.prompt}"
    yield "sandbox", config.isolation or "unknown"
    yield from config.environment.items()
