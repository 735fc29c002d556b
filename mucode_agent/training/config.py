"""The configuration of a whole training: the TOML file of `train loop`, with unknown keys refused by name."""

import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mucode_agent.files import first_cause
from mucode_agent.graphs.settings import StatedSettings
from mucode_agent.runs.config import Pace, Split, reason_against
from mucode_agent.runs.running import Running
from mucode_agent.training.settings import (
    ExpertSettings,
    GeneratorSettings,
    HeldOutShare,
    RelabelSettings,
    VerifierSettings,
)
from mucode_agent.types import ProblemError, Record


class ProblemSettings(Record):
    """The training problems, and those that select the best pair. Paths are relative to the working directory."""

    train: str
    """A benchmark as for `rollout`, such as `mbpp:mbpp_train.jsonl`."""
    validation: str
    split: Split = "fixed"
    testless: bool = False
    train_limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first problems."""
    validation_limit: Annotated[int, Field(ge=1)] | None = None
    drop_overlap: bool = False
    """Leave out training problems that are also in the validation set; otherwise they are an error."""


class LoopSearch(StatedSettings):
    """How a stage searches: `turns` is `max_turns`, and max_tokens 1000 unless given, as in the authors' code."""

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_file(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        named = {("max_turns" if key == "turns" else key): value for key, value in given.items()}
        return {"max_tokens": 1000, **named}


class RolloutSettings(LoopSearch):
    """How each round draws trajectories: one candidate a turn unless `n` is given."""

    per_problem: Annotated[int, Field(ge=1)] = 15
    """K. Not in the paper; the authors' code has 15."""

    @model_validator(mode="before")
    @classmethod
    def _one_candidate(cls, given: Any) -> Any:
        return {"n": 1, **given} if isinstance(given, dict) else given


class ServingSettings(Record):
    """What serves the generator. Without a server it runs in this process."""

    server: str | None = None
    """URL of an OpenAI-compatible vLLM server of the base, started with --enable-lora and
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1. With `command`, the URL at which that serves.
    """
    command: str | None = None
    """Command that serves a checkpoint at `server`; {checkpoint} in it is replaced by the path. It is started for each
    generator and ended when that has drawn, so no adapters are needed and training has the machine to itself.
    """
    start_s: Annotated[float, Field(gt=0)] = 900.0
    """Seconds until `command` must answer."""
    served_base: str | None = None
    """The base's name on the server; None asks the server."""
    adapter: str = "mucode"
    """Prefix of the adapters' names, followed by the round's number."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds for one request."""


class LoopVerifierSettings(HeldOutShare, VerifierSettings):
    """R_φ of each round. The settings of `train verifier` apply if it is a language model."""

    kind: Annotated[
        Literal["language-model", "evidence", "none"], Field(exclude_if=lambda value: value == "language-model")
    ] = "language-model"
    """`evidence` is fitted on the rollouts in seconds. `none` trains no verifier, for an expert and a method that read
    no score; the tests alone then choose on validation.
    """
    base: Annotated[str, Field(min_length=1)] | None = None
    """None takes the generator's base, as the paper does."""

    @property
    def reads(self) -> bool:
        """Whether it is a language model, trained from a base."""
        return self.kind == "language-model"


class ValidationSettings(LoopSearch):
    """How pairs of generator and verifier are measured; the best pair is chosen by this."""

    independent: bool = False
    """Also draw N·T first-turn samples: the same compute, no feedback."""
    choose_by: Literal["turns", "greedy"] = "turns"


_IN_PROBLEMS = {"require_isolation", "timeout", "judge"}
"""Settings outside the identity: isolation changes no verdict, and the problems' digest has limit and judge."""


class LoopConfig(Running, Pace):
    """A whole training (paper, algorithm 1)."""

    base: Annotated[str, Field(min_length=1)]
    """The checkpoint that every round starts from: a directory, a hub id, or an embedded model by name."""
    out: Path | None = None
    """The run directory; --out replaces it."""
    iterations: Annotated[int, Field(ge=1)] = 2
    """Number of rounds, M. The paper has 2 on MBPP and 1 on CodeContests."""
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    """Also the seed of every part that sets none."""
    final_verifier: bool = True
    """Also draw rollouts of the last generator and train a verifier on them, as in the paper (section 3.4)."""
    fresh_labels: bool = True
    """Relabel the data of all rounds by the current expert. Otherwise rows of earlier rounds stay unchanged and the
    expert sees only the current round, as in the authors' code.
    """
    problems: ProblemSettings
    rollouts: RolloutSettings = RolloutSettings()
    serving: ServingSettings = ServingSettings()
    verifier: LoopVerifierSettings = LoopVerifierSettings()
    expert: ExpertSettings = ExpertSettings()
    relabel: RelabelSettings = RelabelSettings()
    generator: GeneratorSettings = GeneratorSettings()
    validation: ValidationSettings = ValidationSettings()

    @model_validator(mode="before")
    @classmethod
    def _one_seed_for_all(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        made = dict(given)
        for part in ("rollouts", "verifier", "relabel", "generator", "validation"):
            own = made.get(part, {})
            if isinstance(own, dict):
                made[part] = {"seed": given.get("seed", 0), **own}
        return made

    @model_validator(mode="after")
    def _a_stage_is_a_run(self) -> "LoopConfig":
        for part in (self.rollouts, self.validation):
            if (reason := reason_against(part)) is not None:
                raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _scores_come_from_a_verifier(self) -> "LoopConfig":
        if self.verifier.kind == "none" and self.relabel.needs_verifier(self.expert):
            raise ValueError(
                f"relabel.method {self.relabel.method!r} with expert.mode {self.expert.mode!r} reads scores: give "
                "verifier.kind evidence or language-model, or expert.mode oracle"
            )
        return self

    @model_validator(mode="after")
    def _a_server_has_what_to_serve(self) -> "LoopConfig":
        serving = self.serving
        if serving.command is not None and (serving.server is None or "{checkpoint}" not in serving.command):
            raise ValueError("serving.command must serve {checkpoint} at an address that serving.server names")
        if serving.command is not None:
            try:
                shlex.split(serving.command)
            except ValueError as error:
                raise ValueError(f"serving.command is no command line: {error}") from None
        if serving.server is not None and serving.command is None and not self.generator.lora_rank:
            raise ValueError(
                "serving.server swaps LoRA adapters: give generator.lora_rank of at least 1, or serving.command"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that determine the artefacts: not directories, concurrency, or serving."""
        fields = self.model_dump(mode="json", exclude={"out", *Pace.model_fields, *_IN_PROBLEMS})
        fields["serving"] = {"served": self.serving.server is not None}
        for part in ("verifier", "generator"):
            del fields[part]["save_steps"]
        return fields


def as_identity(held: dict[str, Any]) -> dict[str, Any]:
    """An identity from an earlier version, with newer settings at their defaults."""
    records: dict[str, type[LoopSearch]] = {"rollouts": RolloutSettings, "validation": ValidationSettings}
    stated = {
        part: record.model_validate({"seed": held["seed"], **held[part]}).model_dump(mode="json")
        for part, record in records.items()
    }
    return held | stated


def read_loop_config(path: Path) -> LoopConfig:
    """Raises ProblemError naming the key that is unknown, missing or out of range."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error.strerror}; give a readable TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path} is no TOML: {error}; fix the file") from None
    try:
        return LoopConfig.model_validate(given)
    except ValidationError as error:
        raise ProblemError(f"{path}: {first_cause(error, 'the file', LoopConfig)}") from None
