"""How a solver searches: declared once, given to `create_solver`, and for one call through LangGraph's `context`."""

from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field, ValidationError

from mucode_agent.files import first_cause
from mucode_agent.graphs.selection import Selector
from mucode_agent.probes import MOST
from mucode_agent.types import Budget, ProblemError, Record, Sampling, SamplingOptions, StatedSampling


class Search(Record):
    """How a solver looks for a program among a model's completions."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    n: Annotated[int, Field(ge=1, le=4096)] = 5
    """Candidates per turn (N of the paper's algorithm 2)."""
    max_turns: Annotated[int, Field(ge=1, le=1000)] = 3
    """Maximum number of turns (T)."""
    wave: Annotated[int, Field(ge=1)] | None = None
    """Candidates drawn and scored before deciding whether to draw more; default: all n."""
    selector: Selector = "tests+verifier"
    """How the best candidate is chosen."""
    accept_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least P(correct) of an accepted answer, in addition to its public tests. Default: none; without public tests, the
    threshold at which the verifier's card promises a precision.
    """
    least_gain: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least increase of P(best) by a wave; below it, the turn draws no further wave."""
    trust_calibration: bool = False
    """Allow `accept_threshold` with a verifier that was calibrated on another generator's programs."""
    budget: Budget = Budget()
    approve: bool = False
    """Ask a person, by LangGraph's `interrupt`, before an answer is accepted. Needs a checkpointer."""
    tools_per_candidate: Annotated[int, Field(ge=0, le=64)] = 0
    """How often the generator may call `run_python` while it writes one candidate, in the same sandbox but without the
    tests. Needs a model that can call tools. Each call is one more request.
    """
    probes: Annotated[int, Field(ge=0, le=256)] = MOST
    """Maximum number of extra inputs on which candidates run, to compare their results. 0 compares nothing."""
    proposed_probes: Annotated[int, Field(ge=0, le=64)] = 0
    """Further probes, which one request asks the model for."""
    partial: bool = False
    """If the model, sandbox or verifier fails after the first candidates, end the solve with the best one so far
    instead of an exception.
    """


class Settings(Sampling, Search):
    """How a solver searches and samples. Together with model, verifier and problem it determines every candidate."""

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Sampling seed. The same seed, model and problem give the same candidates."""

    def options(self) -> "Options":
        """The settings as keyword arguments of `create_solver`."""
        return cast("Options", {name: getattr(self, name) for name in Settings.model_fields})


class StatedSettings(StatedSampling, Settings):
    """The same for runs, whose configuration must record the values."""


class Options(SamplingOptions, total=False):
    """The fields of `Settings` as optional keywords; see there for their meaning and range."""

    n: int
    max_turns: int
    wave: int | None
    selector: Selector
    accept_threshold: float | None
    least_gain: float
    trust_calibration: bool
    budget: Budget
    approve: bool
    tools_per_candidate: int
    probes: int
    proposed_probes: int
    partial: bool
    seed: int


class CallSettings(Settings):
    """Settings for one call, by `context={"n": 3}`. Other fields keep the solver's values."""

    def __init__(self, **fields: Any) -> None:
        """Raises ProblemError."""
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _mistake(error) from None


def settings_of_call(own: Settings, context: object) -> Settings:
    """`own`, updated by this call's context. The context of a parent graph has another type and changes nothing."""
    if not isinstance(context, Settings):
        return own
    return own.model_copy(update={name: getattr(context, name) for name in context.model_fields_set})


def check_settings(fields: Options) -> Settings:
    """Raises ProblemError for a setting that is unknown or out of its range."""
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        raise _mistake(error) from None


def stated_settings(fields: Options) -> StatedSettings:
    """Raises ProblemError for a setting that is unknown or out of its range."""
    try:
        return StatedSettings.model_validate(fields)
    except ValidationError as error:
        raise _mistake(error) from None


def _mistake(error: ValidationError) -> ProblemError:
    return ProblemError(first_cause(error, "the settings", Settings))
