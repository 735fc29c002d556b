"""The whole training (paper, algorithm 1): roll out, train the verifier, relabel, train the generator, and again.

    config.json                the configuration, with seeds, versions and digests of the data
    round-R/rollouts           trajectories of generator R-1; generator 0 is the base
    round-R/verifier           verifier R, trained on the rollouts of rounds 1 to R; absent with kind none
    round-R/validation         generator R-1 with verifier R on the validation problems
    round-R/rows               visited states with the expert's answers
    round-R/generator          generator R
    round-R/STAGE.json         written when the stage is finished
    best.json, report.html     the best pair on validation, and the figures of all pairs

After a kill the same call continues and ends with the same artefacts.
"""

import contextlib
import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console

from mucode_agent.console import messages
from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.check import without_false_examples
from mucode_agent.evaluation.comparison import read_results
from mucode_agent.evaluation.report import write_report
from mucode_agent.evaluation.results import Results
from mucode_agent.evaluation.runner import run_benchmark
from mucode_agent.files import as_lines, check_same, check_unused, hold_directory, write_whole
from mucode_agent.files import read_rows as read_whole_rows
from mucode_agent.metrics import Estimate
from mucode_agent.models.identity import weights_sha256
from mucode_agent.prompts import prompt_digest
from mucode_agent.runs.config import Benchmark, environment, now
from mucode_agent.runs.progress import watching
from mucode_agent.runs.retry import Failure, unfinished
from mucode_agent.training.bases import base_sha256, check_base
from mucode_agent.training.best import Best, Pair
from mucode_agent.training.config import LoopConfig, as_identity
from mucode_agent.training.data import ProblemAttempts, generators_of, read_attempts
from mucode_agent.training.examples import held_out, without_overlap
from mucode_agent.training.generator import ADAPTER, train_generator
from mucode_agent.training.loop_report import write_loop_report
from mucode_agent.training.loop_verifier import fit_round, round_verifier
from mucode_agent.training.relabel import Row
from mucode_agent.training.rollouts import roll_out
from mucode_agent.training.rows import make_rows
from mucode_agent.training.serving import AdapterServer, InProcess, Serving, StartedServer
from mucode_agent.training.settings import VerifierSettings
from mucode_agent.training.stages import Stage, Stages
from mucode_agent.training.verifier import train_verifier
from mucode_agent.types import ProblemError, Sandbox
from mucode_agent.verifiers import load_verifier

ROUND_SEEDS = 10_000
"""Distance between the seeds of two rounds, so no round repeats another's draws."""
MOST_GIVEN_UP = 0.05
"""Share of the problems that a stage may leave unfinished."""

_ROW = TypeAdapter(Row)


def run_loop(
    config: LoopConfig,
    out: Path,
    *,
    sandbox: Sandbox,
    serving: Serving | None = None,
    command: str = "",
    console: Console | None = None,
) -> Best:
    """Starts a training in `out`, or continues it, and returns the best pair on validation.

    `serving` computes generators, by default as the configuration says. Raises ProblemError if `out` holds another
    training or is in use, or if the data give nothing to learn; InfrastructureError if a model, sandbox or disk failed.
    """
    console = console or messages()
    train, validation = (without_false_examples(part, sandbox) for part in benchmarks(config, console))
    check_base(config.base, chats=True)
    if config.verifier.reads and config.verifier.base is not None:
        check_base(config.verifier.base, chats=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProblemError(f"cannot make {out}: {error.strerror}; give another directory") from None
    with hold_directory(out):
        begin_loop(config, out, train, validation, command)
        server = serving or serving_of(config, out)
        with contextlib.closing(server):
            return _Loop(config, out, train, validation, sandbox, server, command, console).run()


def benchmarks(config: LoopConfig, console: Console) -> tuple[Benchmark, Benchmark]:
    """The training and validation problems. Raises ProblemError if they have problems in common."""
    asked = config.problems
    options: dict[str, Any] = {"split": asked.split, "testless": asked.testless}
    train = config.benchmark(load_benchmark(asked.train, limit=asked.train_limit, **options))
    validation = config.benchmark(load_benchmark(asked.validation, limit=asked.validation_limit, **options))
    ids = without_overlap(train.problems, validation.problems, drop=asked.drop_overlap)
    dropped = [problem.id for problem in train.problems if problem.id not in ids]
    if dropped:
        console.print(f"left out of training, because validation has them: {', '.join(dropped)}", markup=False)
    kept = tuple(problem for problem in train.problems if problem.id in ids)
    if not kept:
        raise ProblemError("no training problem is left once those of the validation set are out; give others")
    return train.model_copy(update={"problems": kept}), validation


def serving_of(config: LoopConfig, out: Path) -> Serving:
    asked = config.serving
    if asked.server is None:
        return InProcess()
    if asked.command is not None:
        log = out / "server.log"
        return StartedServer(asked.server, asked.command, log, start_s=asked.start_s, timeout=asked.timeout)
    return AdapterServer(asked.server, base=asked.served_base, adapter=asked.adapter, timeout=asked.timeout)


def begin_loop(config: LoopConfig, out: Path, train: Benchmark, validation: Benchmark, command: str) -> None:
    """Writes config.json, or checks that the one there asks for the same. Raises ProblemError saying what differs."""
    identity = {
        **config.identity(),
        "train_sha256": train.sha256,
        "validation_sha256": validation.sha256,
        "prompt": prompt_digest(),
        "base_sha256": base_sha256(config.base),
        "verifier_base_sha256": base_sha256(config.verifier.base or config.base) if config.verifier.reads else None,
    }
    path = out / "config.json"
    if path.exists():
        try:
            held = as_identity(json.loads(path.read_bytes())["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ProblemError(f"{path} is no configuration of a training; give another directory") from None
        check_same(held, identity, out, "another training")
        return
    check_unused(out)
    facts = {
        "identity": identity,
        "command": command,
        "started": now(),
        "environment": environment(),
    }
    write_whole(path, json.dumps(facts, indent=2) + "\n")


class _Loop:
    def __init__(
        self,
        config: LoopConfig,
        out: Path,
        train: Benchmark,
        validation: Benchmark,
        sandbox: Sandbox,
        serving: Serving,
        command: str,
        console: Console,
    ) -> None:
        self.config, self.out, self.train, self.validation = config, out, train, validation
        self.sandbox, self.serving, self.command, self.console = sandbox, serving, command, console
        self.rounds = config.iterations + 1
        self.stages = Stages(out, plan(config), console)

    def run(self) -> Best:
        pairs = []
        for number in range(1, self.rounds + 1):
            last = number == self.rounds
            for name, work in (("rollouts", self.roll_out), ("verifier", self.train_verifier)):
                if f"round-{number}/{name}" in self.stages.plan:
                    self._stage(number, name, work)
            self._stage(number, "validation", self.validate)
            pairs.append(self._pair(number))
            if not last:
                self._stage(number, "rows", self.relabel)
                self._stage(number, "generator", self.train_generator)
        best = self.choose(pairs)
        page = write_loop_report(self.out)
        self.console.print(
            f"best: generator {best.pair.number} with {best.pair.verifier}, {_percent(best.accuracy)} by "
            f"{best.chosen_by}; report: {page}",
            markup=False,
        )
        return best

    # --- the stages ---

    def roll_out(self, number: int, place: Path) -> tuple[dict[str, Any], str]:
        """Step 1: D_i, by the generator of the round before."""
        asked = self.config.rollouts
        model, weights = self._model(number, asked.max_tokens)
        with watching(len(self.train.problems), self.console) as watch:
            failures = roll_out(
                self.train,
                place,
                model=model,
                weights=weights,
                sandbox=self.sandbox,
                watch=watch,
                per_problem=asked.per_problem,
                pace=self.config,
                command=self.command,
                **asked.model_copy(update={"seed": asked.seed + ROUND_SEEDS * (number - 1)}).options(),
            )
        facts = rollout_facts(read_attempts([place])) | self._given_up(failures, len(self.train.problems))
        words = (
            f"{facts['trajectories']} trajectories, {facts['solved']} of {facts['problems']} problems solved, "
            f"{facts['distinct']:.1f} distinct programs each"
        )
        return facts, words

    def train_verifier(self, number: int, place: Path) -> tuple[dict[str, Any], str]:
        """Steps 2 and 3: R_φ on all data so far."""
        asked = self.config.verifier
        rollouts = self._rollouts(number)
        if asked.kind == "evidence":
            source = f"{self.train.name}, split {self.train.split}"
            return fit_round(rollouts, place, sandbox=self.sandbox, source=source, command=self.command)
        data, apart = held_out(read_attempts(rollouts), asked.held_out_share, self.config.seed)
        # Training sets contain near-duplicates: one must not be trained on if the other calibrates.
        ids = without_overlap([e.problem for e in data], [e.problem for e in apart], drop=True)
        data = [entry for entry in data if entry.problem.id in ids]
        settings = VerifierSettings.model_validate(asked.model_dump(include=set(VerifierSettings.model_fields)))
        trained = train_verifier(
            data,
            base=asked.base or self.config.base,
            out=place,
            held_out=[entry for entry in apart if entry.attempts],
            evaluation=self.validation.problems,
            generators=generators_of(rollouts),
            settings=settings,
            console=self.console,
        )
        quality = trained.card.quality
        facts = {
            "groups": trained.groups,
            "too_long": trained.too_long,
            "quality": quality.model_dump(mode="json") if quality else None,
            "data_sha256": trained.card.data_sha256,
        }
        pairs = quality.pairwise_accuracy if quality else None
        quality_words = f", held-out pairs {100 * pairs:.1f} %" if pairs is not None else ""
        return facts, f"{trained.groups} groups of programs{quality_words}"

    def validate(self, number: int, place: Path) -> tuple[dict[str, Any], str]:
        """Generator number-1 with the newest verifier, by the evaluation's own runner."""
        asked, pair = self.config.validation, self._pair(number)
        model, weights = self._model(number, asked.max_tokens)
        with watching(len(self.validation.problems), self.console) as watch:
            failures = run_benchmark(
                self.validation,
                place,
                model=model,
                model_name=f"{pair.generator}@{weights[:12]}" if weights else pair.generator,
                sandbox=self.sandbox,
                verifier=load_verifier(pair.verifier),
                watch=watch,
                independent=asked.independent,
                pace=self.config,
                command=self.command,
                **asked.options(),
            )
        given_up = self._given_up(failures, len(self.validation.problems))
        results, _ = write_report(place)
        accuracy = {arm.arm.name: arm.accuracy[-1] for arm in results.arms}
        words = ", ".join(f"{name} {_percent(estimate)}" for name, estimate in accuracy.items())
        return given_up | {name: estimate.model_dump(mode="json") for name, estimate in accuracy.items()}, words

    def relabel(self, number: int, place: Path) -> tuple[dict[str, Any], str]:
        """Steps 4 and 5: the expert's answers to every state."""
        fresh = self.config.fresh_labels
        data = read_attempts(self._rollouts(number) if fresh else self._rollouts(number)[-1:])
        verifier = load_verifier(round_verifier(self.config.verifier.kind, self._dir(number) / "verifier"))
        made = make_rows(data, self.config.relabel, self.config.expert, verifier)
        earlier = read_rows(self._dir(number - 1) / "rows") if not fresh and number > 1 else []
        rows = [*earlier, *made.rows]
        place.mkdir(exist_ok=True)
        write_whole(place / "rows.jsonl", as_lines(rows))
        facts = {"rows": len(rows), "right": sum(row.correct for row in rows), **made.model_dump(exclude={"rows"})}
        return facts, f"{len(rows)} rows of {made.states} states, {facts['right']} with a right answer"

    def train_generator(self, number: int, place: Path) -> tuple[dict[str, Any], str]:
        """Step 6, from the base again."""
        trained = train_generator(
            read_rows(self._dir(number) / "rows"),
            base=self.config.base,
            out=place,
            settings=self.config.generator,
            console=self.console,
        )
        card = trained.card
        loss = f"loss {card.loss:.4f}" if card.loss is not None else "no step"
        return card.model_dump(mode="json"), f"{card.rows} rows, {card.left_out} left out, {card.steps} steps, {loss}"

    def choose(self, pairs: Sequence[Pair]) -> Best:
        """The pair that solves most validation problems; then the one better at greedy decoding, then the earlier."""
        by = self.config.validation.choose_by
        accuracies = [_accuracies(read_results(pair.results)) for pair in pairs]

        def worth(i: int) -> tuple[float, float, int]:
            found = accuracies[i]
            return found.get(by, found["greedy"]).value, found["greedy"].value, -i

        best = max(range(len(pairs)), key=worth)
        chosen = by if by in accuracies[best] else "greedy"
        made = Best(pair=pairs[best], chosen_by=chosen, accuracy=accuracies[best][chosen], pairs=tuple(pairs))
        write_whole(self.out / "best.json", made.model_dump_json(indent=2) + "\n")
        return made

    # --- its parts ---

    def _stage(self, number: int, name: str, work: Any) -> Stage:
        stage = self.stages.run(f"round-{number}/{name}", lambda place: work(number, place))
        self.serving.close()
        gc.collect()  # the weights of two stages must not be in memory together
        return stage

    def _dir(self, number: int) -> Path:
        return self.out / f"round-{number}"

    def _rollouts(self, number: int) -> list[Path]:
        return [self._dir(earlier) / "rollouts" for earlier in range(1, number + 1)]

    def _checkpoint(self, number: int) -> str:
        return self.config.base if number == 1 else str(self._dir(number - 1) / "generator")

    def _pair(self, number: int) -> Pair:
        has_own = number < self.rounds or self.config.final_verifier
        verifier = self._dir(number if has_own else number - 1) / "verifier"
        return Pair(
            number=number - 1,
            generator=self._checkpoint(number),
            verifier=round_verifier(self.config.verifier.kind, verifier),
            results=self._dir(number) / "validation",
        )

    def _model(self, number: int, max_tokens: int) -> tuple[Any, str]:
        """The generator that round `number` draws from, and a digest of its weights if they are on this machine."""
        checkpoint = Path(self._checkpoint(number)).expanduser()
        adapter = checkpoint / ADAPTER
        model, _ = self.serving.generator(
            str(checkpoint) if checkpoint.exists() else self.config.base,
            adapter if adapter.is_dir() else None,
            number - 1,
            max_tokens=max_tokens,
        )
        return model, weights_sha256(checkpoint) if checkpoint.exists() else ""

    def _given_up(self, failures: Sequence[Failure], total: int) -> dict[str, Any]:
        """Lets a long run continue although a few problems failed, such as one too long for the context."""
        if failures:
            first = failures[0]
            summary = f"{len(failures)} of {total} problems are unfinished, the first {first.problem_id}: {first.cause}"
            if len(failures) > MOST_GIVEN_UP * total:
                raise unfinished(failures, total, summary)
            self.console.print(f"continuing without them: {summary}", markup=False)
        return {"given_up": [failure.problem_id for failure in failures]}


def plan(config: LoopConfig) -> list[str]:
    """The stages of a training, in order."""
    names = []
    for number in range(1, config.iterations + 2):
        last = number == config.iterations + 1
        judged = config.verifier.kind != "none"
        if not last or (config.final_verifier and judged):
            names += [f"round-{number}/rollouts", *([f"round-{number}/verifier"] if judged else [])]
        names.append(f"round-{number}/validation")
        if not last:
            names += [f"round-{number}/rows", f"round-{number}/generator"]
    return names


def rollout_facts(data: Sequence[ProblemAttempts]) -> dict[str, Any]:
    """Figures of a round's trajectories: how many are right, and how diverse they are."""
    tried = [entry for entry in data if entry.trajectories]
    first = [{a.form for a in entry.attempts if a.candidate.turn == 1} for entry in tried]
    attempts = [attempt for entry in tried for attempt in entry.attempts]
    return {
        "problems": len(tried),
        "solved": sum(any(attempt.correct for attempt in entry.attempts) for entry in tried),
        "trajectories": sum(len(entry.trajectories) for entry in tried),
        "states": sum(len(trajectory.states) for entry in tried for trajectory in entry.trajectories),
        "programs": len(attempts),
        "right": sum(attempt.correct for attempt in attempts),
        "distinct": sum(len(entry.distinct()) for entry in tried) / max(1, len(tried)),
        "distinct_first_turn": sum(map(len, first)) / max(1, len(tried)),
    }


def read_rows(directory: Path) -> list[Row]:
    """Raises ProblemError naming a damaged line."""
    return list(read_whole_rows(directory / "rows.jsonl", _ROW, needed_for=f"remove {directory}.json to make it again"))


def _accuracies(results: Results) -> dict[str, Estimate]:
    return {arm.arm.name: arm.accuracy[-1] for arm in results.arms}


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
