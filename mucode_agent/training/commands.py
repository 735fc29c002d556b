"""`python -m mucode_agent rollout`: what training learns from."""

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mucode_agent.evaluation.commands import BENCHMARKS, Limit, Place, Split
from mucode_agent.types import InfrastructureError


def rollout(
    problems: Annotated[str, typer.Argument(metavar="PROBLEMS", help=BENCHMARKS)],
    model: Annotated[str, typer.Option(help="smollm2 · hf:PATH_OR_ID · vllm:NAME@URL · a URL · provider:model")],
    output: Annotated[
        Path, typer.Option("--out", "--output", help="Directory of the rollouts; the same command goes on with it.")
    ],
    per_problem: Annotated[int, typer.Option(help="Trajectories of each problem (K).")] = 15,
    turns: Annotated[int, typer.Option(help="Turns at most (T).")] = 3,
    n: Annotated[int, typer.Option("--n", help="Candidates per turn; the best of them is fed back.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Of one completion.")] = 1024,
    seed: Annotated[int, typer.Option(help="Trajectory k has this plus k.")] = 0,
    weights: Annotated[
        str, typer.Option(help="Names a served model's weights where its name does not, e.g. an adapter's digest.")
    ] = "",
    split: Split = "fixed",
    testless: Annotated[bool, typer.Option("--testless", help="Leave the tests out of the prompt.")] = False,
    limit: Limit = None,
    concurrency: Annotated[int, typer.Option(help="Trajectories in flight.")] = 64,
    patience: Annotated[float, typer.Option(help="Seconds that a failing server is waited for.")] = 60.0,
    sandbox: Place = "local",
) -> None:
    """Draw K trajectories per problem and judge every program; several workers may share a directory."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.evaluation.progress import watching
    from mucode_agent.models import load_model
    from mucode_agent.tools.sandbox import load_sandbox
    from mucode_agent.training.rollouts import roll_out

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    asked = load_benchmark(problems, split=split, testless=testless, limit=limit)  # type: ignore[arg-type]
    total = len(asked.problems)
    console.print(f"{asked.name}: {total} problems, {per_problem} trajectories each, {output}", markup=False)
    generator = load_model(model, temperature=temperature, max_tokens=max_tokens)
    with contextlib.closing(load_sandbox(sandbox)) as place, watching(total, console) as watch:
        failures = roll_out(
            asked,
            output,
            model=generator,
            sandbox=place,
            watch=watch,
            weights=weights,
            per_problem=per_problem,
            max_turns=turns,
            n=n,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            concurrency=concurrency,
            patience=patience,
            command=shlex.join(["python", "-m", "mucode_agent", *sys.argv[1:]]),
        )
    if failures:
        first = failures[0]
        raise InfrastructureError(
            f"{len(failures)} of {total} problems have no shard, the first {first.problem_id}: {first.cause}; "
            "run the same command to try them again"
        )
