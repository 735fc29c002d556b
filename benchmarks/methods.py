"""Methods of making a generator's rows, side by side: µCODE, its experts, and rejection fine-tuning.

    python benchmarks/methods.py examples/training/two-cores.toml --out runs/methods --seed 0 --seed 1 \\
        base mucode:both@runs/multi mucode:oracle@runs/multi rft-multi@runs/multi rft-single@runs/single

A variant is METHOD[:EXPERT]@ROLLOUTS, with a directory of `rollout`, or `base`. The configuration gives the base, the
verifier's kind (`evidence` ships with the package), the generator's settings, what serves a checkpoint, and the
validation problems. Every variant gets the same number of rows, so all trainings take equally many steps: the seed
draws them. Each variant is trained, then measured on the validation problems and on HumanEval, greedy and with N
candidates in up to T turns. With several seeds, the mean over them is compared too, paired by problem. Equal sampled
programs are the caller's part: K trajectories of two turns against more of one turn. Stopped anywhere, the same
command continues.
"""

import argparse
import random
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from expert_iteration import CONSOLE, differences, measure
from pydantic import BaseModel, ValidationError

from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.comparison import read_results
from mucode_agent.evaluation.results import Results
from mucode_agent.files import first_cause
from mucode_agent.runs.config import Benchmark
from mucode_agent.training.config import LoopConfig, read_loop_config
from mucode_agent.training.data import read_attempts
from mucode_agent.training.examples import without_overlap
from mucode_agent.training.generator import train_generator
from mucode_agent.training.relabel import Row
from mucode_agent.training.rows import make_rows
from mucode_agent.types import ProblemError, Verifier
from mucode_agent.verifiers import load_verifier

Settings = TypeVar("Settings", bound=BaseModel)


class Variant(NamedTuple):
    method: str
    expert: str
    rollouts: Path

    @property
    def name(self) -> str:
        return f"{self.method}-{self.expert}" if self.method == "mucode" else self.method


BASE = Variant("base", "", Path())


def variant(text: str) -> Variant:
    if text == BASE.method:
        return BASE
    how, at, place = text.partition("@")
    method, _, expert = how.partition(":")
    if not at or not Path(place).is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not base, nor METHOD[:EXPERT]@ROLLOUTS with a directory of `rollout`"
        )
    return Variant(method, expert or "both", Path(place))


def changed(settings: Settings, **values: str | int) -> Settings:
    """A copy with values of the command line, which `model_copy` would not check. Raises ValidationError."""
    return type(settings).model_validate(settings.model_dump() | values)


def rows_of(which: Variant, config: LoopConfig, seed: int, apart: Benchmark, verifier: Verifier) -> list[Row]:
    """The rows of one variant, without problems of the validation set."""
    data = read_attempts([which.rollouts])
    kept = without_overlap([entry.problem for entry in data], apart.problems, drop=True)
    relabel = changed(config.relabel, method=which.method, seed=seed)
    expert = changed(config.expert, mode=which.expert)
    return list(make_rows([e for e in data if e.problem.id in kept], relabel, expert, verifier).rows)


def over_seeds(runs: list[Results]) -> Results:
    """The first run, with the mean of every outcome over all runs, for the problems that all have."""
    common = set.intersection(*(set(run.outcomes) for run in runs))
    means = {
        problem: {figure: fmean(run.outcomes[problem][figure] for run in runs) for figure in figures}
        for problem, figures in runs[0].outcomes.items()
        if problem in common
    }
    return runs[0].model_copy(update={"outcomes": means})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a configuration of `train loop` with serving.command")
    parser.add_argument("variants", type=variant, nargs="+", metavar="VARIANT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, action="append", default=[])
    parser.add_argument("--rows", type=int, help="rows of every training; the fewest of the variants unless given")
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument(
        "--verifier", default="evidence", help="scores rows, and chooses with the tests, as for `solve`"
    )
    options = parser.parse_args()
    try:
        config = read_loop_config(options.config)
        validation = load_benchmark(config.problems.validation)
        verifier = load_verifier(options.verifier)
        seeds = list(dict.fromkeys(options.seed)) or [config.seed]
        settings = {seed: changed(config.generator, seed=seed) for seed in seeds}
        made = {
            (which.name, seed): rows_of(which, config, seed, validation, verifier)
            for seed in seeds
            for which in options.variants
            if which is not BASE
        }
    except ValidationError as error:
        parser.error(f"a variant's {first_cause(error)}")
    except ProblemError as error:
        parser.error(str(error))
    fewest = min(map(len, made.values()), default=0)
    count = fewest if options.rows is None else options.rows
    if made and not 1 <= count <= fewest:
        parser.error(f"--rows must be from 1 to {fewest}, the fewest of the variants, got {count}")
    benchmarks = {"validation": validation, "humaneval": load_benchmark("humaneval")}

    def measured(name: str, kind: str) -> Path:
        return Path(options.out) / "measured" / f"{name}-{kind}"

    def measure_both(name: str, checkpoint: str) -> None:
        places = {measured(name, kind): benchmark for kind, benchmark in benchmarks.items()}
        measure(config, checkpoint, places, options, selector="tests+verifier", verifier=verifier)

    if BASE in options.variants:
        measure_both("base", config.base)
    for (name, seed), rows in made.items():
        CONSOLE.print(f"{name}, seed {seed}: {count} of {len(rows)} rows", markup=False)
        place = options.out / f"{name}-{seed}"
        train_generator(
            random.Random(seed).sample(rows, count),
            base=config.base,
            out=place,
            settings=settings[seed],
            console=CONSOLE,
        )
        measure_both(place.name, str(place))
    groups = {
        which.name: ["base"] if which is BASE else [f"{which.name}-{seed}" for seed in seeds]
        for which in options.variants
    }
    for kind in benchmarks:
        runs = {name: read_results(measured(name, kind)) for group in groups.values() for name in group}
        differences(runs, kind)
        if len(seeds) > 1:
            means = {name: over_seeds([runs[one] for one in group]) for name, group in groups.items()}
            differences(means, f"{kind}, mean of {len(seeds)} seeds")


if __name__ == "__main__":
    main()
