"""Whole trainings against their base: greedy and N=5, T=3, on the validation problems and on HumanEval, paired.

    python benchmarks/expert_iteration.py examples/training/two-cores.toml examples/training/two-cores-rft.toml \
        --out runs/two-cores

Runs `train loop` of every configuration, then measures the base and each training's last generator with `evaluate`'s
own runner, selecting by public tests, and prints what differs and whether that is more than chance. The configurations
must have serving.command, which serves what is measured too. Stopped anywhere, the same command goes on.
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
from itertools import combinations
from pathlib import Path

from rich.console import Console

from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.comparison import compare_runs, read_results
from mucode_agent.evaluation.report import write_report
from mucode_agent.evaluation.results import Results
from mucode_agent.evaluation.runner import run_benchmark
from mucode_agent.evaluation.tables import comparison_table, for_markdown
from mucode_agent.graphs.selection import Selector
from mucode_agent.runs.config import Benchmark
from mucode_agent.runs.progress import watching
from mucode_agent.tools.sandbox import load_sandbox
from mucode_agent.training.config import LoopConfig, read_loop_config
from mucode_agent.training.loop import serving_of
from mucode_agent.types import Verifier

CONSOLE = Console(stderr=True, highlight=False, soft_wrap=True)


def measure(
    config: LoopConfig,
    checkpoint: str,
    benchmarks: dict[Path, Benchmark],
    options: argparse.Namespace,
    *,
    selector: Selector = "tests",
    verifier: Verifier | None = None,
) -> None:
    """Measures a checkpoint on benchmarks, each in its directory, with one start of the server.

    Finished benchmarks are skipped. `options` has n, turns and max_tokens.
    """
    missing = {place: benchmark for place, benchmark in benchmarks.items() if not _measured(place)}
    if not missing:
        return
    logs = next(iter(missing)).parent
    logs.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(serving_of(config, logs)) as serving,
        contextlib.closing(load_sandbox(config.sandbox)) as sandbox,
    ):
        model, _ = serving.generator(checkpoint, None, 0, max_tokens=options.max_tokens)
        for place, benchmark in missing.items():
            CONSOLE.print(f"{place}: {benchmark.name} with {checkpoint}", markup=False)
            with watching(len(benchmark.problems), CONSOLE) as watch:
                failures = run_benchmark(
                    benchmark,
                    place,
                    model=model,
                    model_name=checkpoint,
                    sandbox=sandbox,
                    watch=watch,
                    n=options.n,
                    max_turns=options.turns,
                    independent=False,
                    selector=selector,
                    verifier=verifier,
                    max_tokens=options.max_tokens,
                    pace=config,
                    command=shlex.join(["python", *sys.argv]),
                )
            write_report(place)
            if failures:
                sys.exit(
                    f"{len(failures)} problems are unfinished, the first: {failures[0].cause}; "
                    "run the same command again"
                )


def _measured(place: Path) -> bool:
    return (place / "results.json").exists() and not read_results(place).unfinished


def differences(results: dict[str, Results], kind: str) -> None:
    """Prints every pair side by side, in the given order."""
    for a, b in combinations(results, 2):
        print(for_markdown(comparison_table(compare_runs(results[a], results[b]), f"{a}, {kind}", f"{b}, {kind}")))
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path, nargs="+", help="configurations of `train loop`, of one base")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=512)
    options = parser.parse_args()
    configs = {path.stem: read_loop_config(path) for path in options.configs}
    if len({(config.base, config.problems.validation) for config in configs.values()}) > 1:
        sys.exit("the configurations have different bases or validation problems; give those of one")
    first = next(iter(configs.values()))
    checkpoints = {"base": first.base}
    for path, (name, config) in zip(options.configs, configs.items(), strict=True):
        run = options.out / name
        command = [sys.executable, "-m", "mucode_agent", "train", "loop", str(path), "--out", str(run)]
        if (status := subprocess.run(command, check=False).returncode) != 0:
            sys.exit(status)
        checkpoints[name] = str(run / f"round-{config.iterations}" / "generator")
    benchmarks = {"validation": load_benchmark(first.problems.validation), "humaneval": load_benchmark("humaneval")}
    for name, checkpoint in checkpoints.items():
        places = {options.out / "measured" / f"{name}-{kind}": benchmark for kind, benchmark in benchmarks.items()}
        measure(first, checkpoint, places, options)
    for kind in benchmarks:
        differences({name: read_results(options.out / "measured" / f"{name}-{kind}") for name in checkpoints}, kind)


if __name__ == "__main__":
    main()
