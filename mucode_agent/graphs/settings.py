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
    """Turns at most (T)."""
    wave: Annotated[int, Field(ge=1)] | None = None
    """Candidates drawn before the route is asked again; default: all n."""
    selector: Selector = "tests+verifier"
    """How the best candidate is chosen."""
    accept_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """P(correct) that an answer needs beside its public tests. Default: none; without public tests, the threshold for
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
    """Extra inputs on which candidates are run, to compare what they do. 0 compares nothing."""
    proposed_probes: Annotated[int, Field(ge=0, le=64)] = 0
    """More such calls, for which the model is asked in one request."""
    show_dispute: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Whether, where there are no public tests, the next turn's feedback shows an input on which the turn's programs
    disagree and what the selected one returns there; one more run per turn."""
    partial: bool = False
    """Whether a model, sandbox or verifier that fails after the first candidates ends the solve with the best so far,
    instead of an exception that carries it."""


class Settings(Sampling, Search):
    """How a solver searches and samples. Together with model, verifier and problem it determines every candidate."""

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Same seed, model and problem: same candidates."""

    def options(self) -> "Options":
        """As keywords of `create_solver`."""
        return cast("Options", {name: getattr(self, name) for name in Settings.model_fields})


class StatedSettings(StatedSampling, Settings):
    """The same where a run must say what it was drawn with."""


class Options(SamplingOptions, total=False):
    """The fields of `Settings`, any of them, as keywords: what they mean and their ranges stand there."""

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
    show_dispute: bool
    partial: bool
    seed: int


class CallSettings(Settings):
    """What one call sets otherwise, by `context={"n": 3}`. Fields that are not given stay as the solver has them."""

    def __init__(self, **fields: Any) -> None:
        """Raises ProblemError."""
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _mistake(error) from None


def settings_of_call(own: Settings, context: object) -> Settings:
    """`own` with what this call's context gives. A parent's context is another, or none, and changes nothing."""
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
