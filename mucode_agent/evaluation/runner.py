"""A benchmark as a run: every problem searched by up to three arms with one generator, selector and verifier."""

from pathlib import Path
from typing import Any, Unpack

from mucode_agent.graphs.settings import Options, StatedSettings, stated_settings
from mucode_agent.runs.config import Arm, Benchmark, Pace
from mucode_agent.runs.retry import Failure, ProgressListener
from mucode_agent.runs.worker import begin_run, work
from mucode_agent.types import Sandbox, Verifier
from mucode_agent.verifiers import NoVerifier


def arms(search: StatedSettings, *, greedy: bool, independent: bool) -> tuple[Arm, ...]:
    """The arms of a run: `turns` always, the others if requested and different from it."""

    def changed(**fields: Unpack[Options]) -> StatedSettings:
        return stated_settings({**search.options(), **fields})

    single = Arm.of("greedy", changed(n=1, temperature=0.0))
    if search.temperature == 0 and search.n == 1:
        return (single,)
    several = changed(n=search.n * search.max_turns, max_turns=1)
    same_compute = [Arm.of("independent", several, group=search.n)] if independent and search.max_turns > 1 else []
    return (*((single,) if greedy else ()), Arm.of("turns", search), *same_compute)


def run_benchmark(
    benchmark: Benchmark,
    directory: Path,
    *,
    model: Any,
    model_name: str,
    sandbox: Sandbox,
    watch: ProgressListener,
    verifier: Verifier | None = None,
    greedy: bool = True,
    independent: bool = True,
    pace: Pace | None = None,
    command: str = "",
    **search: Unpack[Options],
) -> list[Failure]:
    """Starts a run in `directory`, or continues it, until every problem is finished or given up.

    `model` is anything that `models.sampling.sample` accepts, and `model_name` its name in the run's identity; `search`
    has the fields of `graphs.settings.StatedSettings`. Returns the problems that were given up; `report.write_report`
    makes the figures. Raises ProblemError if the directory holds another run, and InfrastructureError if the model,
    sandbox or verifier failed for longer than `pace` allows.
    """
    asked, scorer = stated_settings(search), verifier or NoVerifier()
    # The run itself measures how well a calibration holds for this generator.
    searches = arms(asked.model_copy(update={"trust_calibration": True}), greedy=greedy, independent=independent)
    run = begin_run(
        benchmark,
        directory,
        searches,
        model=model,
        model_name=model_name,
        sandbox=sandbox,
        verifier=scorer,
        command=command,
    )
    return work(run, benchmark.problems, model, sandbox, scorer, watch, pace or Pace())
