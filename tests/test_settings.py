"""Settings are declared once: what is added to the record is sent, stored, keyed and offered by every command."""

import inspect
import json
from typing import Annotated, Any

import pytest
from chat_server import ChatServer
from evaluation_victim import evaluate
from fakes import RuleSandbox, SeededModel, fenced
from rollout_victim import rollouts

from mucode_agent import MemoryTrace, create_solver
from mucode_agent.cli import evaluate as evaluate_commands
from mucode_agent.cli import serve as serve_commands
from mucode_agent.cli import solve as solve_command
from mucode_agent.cli import traces as trace_commands
from mucode_agent.cli import train as train_commands
from mucode_agent.cli.options import Fields, command, flag
from mucode_agent.graphs.settings import Settings, StatedSettings
from mucode_agent.models.refusals import overflows, read_refusal
from mucode_agent.runs.directory import RunDirectory, read_config
from mucode_agent.training.config import LoopConfig
from mucode_agent.training.settings import (
    EvidenceSettings,
    ExpertSettings,
    GeneratorSettings,
    HeldOutShare,
    RelabelSettings,
    VerifierSettings,
)
from mucode_agent.types import InfrastructureError, ProblemError, Sampling, StatedSampling

OTHER: dict[str, Any] = {"temperature": 0.25, "top_p": 0.9, "max_tokens": 77}
"""Of each sampling option a value that is not its default."""
PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "inc", "public_tests": ["assert inc(1) == 2"]}


class RefusedError(Exception):
    status_code = 400


COMMANDS = (
    solve_command.solve,
    evaluate_commands.run,
    trace_commands.rollout,
    serve_commands.serve,
    serve_commands.mcp,
)

each_option = pytest.mark.parametrize("option", Sampling.model_fields)


@pytest.mark.parametrize("function", COMMANDS, ids=lambda function: function.__name__)
def test_every_command_that_asks_a_model_server_takes_a_request_timeout(function: Any) -> None:
    assert "request_timeout" in inspect.signature(function).parameters


def passes(code: str) -> bool:
    return "return 3" in code


def test_every_sampling_option_has_a_value_to_be_tested_with() -> None:
    assert OTHER.keys() == Sampling.model_fields.keys()


# --- where an option must be felt -----------------------------------------------------------------------------------


@each_option
def test_a_server_gets_it(option: str) -> None:
    with ChatServer(lambda prompt, seed: fenced("def inc(x):\n    return x + 1")) as server:
        solver = create_solver(
            f"openai:any@{server.url}", sandbox=RuleSandbox(lambda _: True), n=1, **{option: OTHER[option]}
        )
        solver.invoke({"problem": PROBLEM})

    sent = server.requests[0]
    assert {sent.get(name) for name in (option, f"{option.replace('max_', 'max_completion_')}")} >= {OTHER[option]}


@each_option
def test_it_is_left_out_where_the_server_refuses_it(option: str) -> None:
    assert read_refusal(RefusedError(f"Unsupported parameter: '{option}'")).options({"seed", option}) == {option}


@each_option
def test_it_changes_the_run_id(option: str) -> None:
    assert run_id() != run_id(**{option: OTHER[option]})


def run_id(**options: Any) -> str:
    trace = MemoryTrace()
    model, sandbox = SeededModel(), RuleSandbox(lambda _: True)
    create_solver(model, sandbox=sandbox, trace=trace, n=1, **options).invoke({"problem": PROBLEM})
    return trace.rows[0].run_id


@each_option
def test_it_belongs_to_an_evaluations_identity_and_to_the_key_of_its_draws(option: str, tmp_path) -> None:
    run, options = tmp_path / "run", {"greedy": False, "independent": False}
    other = tmp_path / "other"
    for directory, changes in ((run, {}), (other, {option: OTHER[option]})):
        with pytest.raises(InfrastructureError):
            evaluate(directory, model=Dying(), sandbox=RuleSandbox(passes), **options, **changes)

    assert read_config(run).identity != read_config(other).identity
    assert states(run)
    assert not states(run) & states(other)
    with pytest.raises(ProblemError, match="holds results of another run"):
        evaluate(run, model=SeededModel(), sandbox=RuleSandbox(passes), **options, **{option: OTHER[option]})
    with pytest.raises(ProblemError, match="holds results of another run"):
        evaluate(other, model=SeededModel(), sandbox=RuleSandbox(passes), **options)


class Dying(SeededModel):
    """Answers a few times and never again, so that what it drew stays in the journals."""

    model: str = "SeededModel"
    draws: int = 0

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.draws += 1
        if self.draws > 4:
            raise ConnectionError("connection refused")
        return super()._generate(messages, stop, run_manager, **kwargs)


def states(directory) -> set[str]:
    lines = [line for path in directory.glob("drawn/*.jsonl") for line in path.read_text().splitlines()]
    return {json.loads(line)["state"] for line in lines}


@each_option
def test_it_belongs_to_a_rollouts_policy_and_shard_keys(option: str, tmp_path) -> None:
    rollouts(tmp_path / "run")
    rollouts(tmp_path / "other", **{option: OTHER[option]})

    run, other = (RunDirectory(tmp_path / name, read_config(tmp_path / name)).keys() for name in ("run", "other"))
    assert not run & other
    with pytest.raises(ProblemError, match=f"{option} was"):
        rollouts(tmp_path / "run", **{option: OTHER[option]})
    with pytest.raises(ProblemError, match=f"{option} was"):
        rollouts(tmp_path / "other")


@each_option
@pytest.mark.parametrize("part", ["rollouts", "validation"])
def test_a_training_takes_it_and_is_another_training_with_it(option: str, part: str) -> None:
    given = {"base": "b", "problems": {"train": "t", "validation": "v"}}
    plain = LoopConfig.model_validate(given)
    other = LoopConfig.model_validate({**given, part: {option: OTHER[option]}})
    assert plain.identity() != other.identity()


@each_option
@pytest.mark.parametrize("function", COMMANDS, ids=lambda function: function.__name__)
def test_every_command_that_draws_offers_it_with_the_records_default_and_help(function: Any, option: str) -> None:
    parameter = inspect.signature(function).parameters[option]
    field = StatedSampling.model_fields[option]
    assert parameter.default == field.default
    offered = parameter.annotation.__metadata__[0]
    assert flag(option) in (offered.default, *offered.param_decls)
    assert offered.help.startswith(" ".join(field.description.split()))


# --- how verifiers and generators are trained -----------------------------------------------------------------------

TRAININGS = {
    train_commands.verifier: (VerifierSettings, EvidenceSettings, HeldOutShare),
    train_commands.calibrate: (EvidenceSettings,),
    train_commands.generator: (ExpertSettings, RelabelSettings, GeneratorSettings),
}
OTHER_DEFAULTS = {
    (train_commands.verifier, "learning_rate"): 1e-5,
    (train_commands.verifier, "batch_size"): 8,
    (train_commands.generator, "learning_rate"): None,
}
"""Of commands: the loop has the paper's."""


@pytest.mark.parametrize(
    ("function", "record"),
    [pytest.param(f, record, id=f"{f.__name__}-{record.__name__}") for f, all_ in TRAININGS.items() for record in all_],
)
def test_every_setting_of_a_training_is_an_option_with_the_records_default_and_help(function: Any, record: Any) -> None:
    parameters = inspect.signature(function).parameters
    for name, field in record.model_fields.items():
        default = OTHER_DEFAULTS.get((function, name), field.default)
        assert parameters[name].default == (None if default == () else default)
        offered = parameters[name].annotation.__metadata__[0].help
        assert field.description
        assert name == "seed" or offered.startswith(" ".join(field.description.split()))  # one option of two records


def test_the_file_of_a_loop_takes_the_same_settings_as_the_commands() -> None:
    parts = {name: field.annotation for name, field in LoopConfig.model_fields.items()}

    assert parts["expert"] is ExpertSettings
    assert parts["relabel"] is RelabelSettings
    assert parts["generator"] is GeneratorSettings
    assert issubclass(parts["verifier"], VerifierSettings)
    assert issubclass(parts["verifier"], HeldOutShare)


def test_adapters_are_trained_at_a_higher_rate_unless_one_is_given() -> None:
    assert GeneratorSettings().learning_rate == 5e-7
    assert GeneratorSettings(lora_rank=16).learning_rate == 1e-4
    assert GeneratorSettings(lora_rank=16, learning_rate=2e-4).learning_rate == 2e-4


# --- what was made before an option was there ----------------------------------------------------------------------

BEFORE_TOP_P = (
    '{"n":5,"max_turns":3,"wave":null,"selector":"tests+verifier","accept_threshold":null,"least_gain":0.0,'
    '"trust_calibration":false,"budget":{"candidates":null,"tokens":null,"seconds":null,"cost":null,'
    '"prompt_price":0.0,"completion_price":0.0},"approve":false,"tools_per_candidate":0,"probes":24,'
    '"proposed_probes":0,"partial":false,"temperature":null,"max_tokens":null,"seed":0}'
)


def test_settings_without_the_new_option_are_written_as_before_it() -> None:
    assert Settings().model_dump_json() == BEFORE_TOP_P
    assert Settings.model_validate_json(BEFORE_TOP_P) == Settings()


def test_runs_without_the_new_option_are_written_as_before_it_and_go_on(tmp_path) -> None:
    evaluate(tmp_path / "evaluation", model=SeededModel(), sandbox=RuleSandbox(passes))
    rollouts(tmp_path / "rollouts")
    for name in ("evaluation", "rollouts"):
        assert "top_p" not in (tmp_path / name / "config.json").read_text()

    evaluate(tmp_path / "evaluation", model=SeededModel(), sandbox=RuleSandbox(passes))
    rollouts(tmp_path / "rollouts")


# --- options from fields -------------------------------------------------------------------------------------------


def test_a_value_out_of_range_is_named_by_its_option() -> None:
    @command
    def function(search: Annotated[StatedSettings, Fields("n", "max_turns", "top_p")]) -> None:
        assert search.n == 1

    function(n=1, max_turns=1, top_p=1)
    with pytest.raises(ProblemError, match="--top-p must be more than 0, got 0"):
        function(n=1, max_turns=1, top_p=0)
    with pytest.raises(ProblemError, match="--turns must be at least 1, got 0"):
        function(n=1, max_turns=0, top_p=None)


@pytest.mark.parametrize(
    "message",
    [
        "Multiple candidates is not enabled for this model",
        "Only one candidate can be specified in the current model",
        "num_choices > 1 is not supported",
    ],
)
def test_a_server_that_gives_one_answer_says_so_in_many_words(message: str) -> None:
    assert read_refusal(RefusedError(message)).options({"n", "seed"}) == {"n"}


@pytest.mark.parametrize(
    "message",
    [
        "input is too long for requested model",
        "Prompt exceeds max length",
        "Range of input length should be [1, 30720]",
        "tokens in request more than max tokens allowed",
        "Your request exceeded model token limit: 8192",
        "inputs must have less than 4096 tokens. Given: 5000",
        "prompt tokens exceed the model's limit",
    ],
)
def test_a_prompt_that_is_too_long_is_told_in_many_words(message: str) -> None:
    error = RefusedError(message)
    assert overflows(error, read_refusal(error))


def test_a_field_of_two_records_is_one_option_of_both() -> None:
    found = []

    @command
    def function(
        rows: Annotated[RelabelSettings, Fields("seed")],
        fit: Annotated[GeneratorSettings, Fields("seed", "learning_rate", learning_rate=None)],
    ) -> None:
        found.append((rows.seed, fit.seed, fit.learning_rate))

    function(seed=7, learning_rate=None)
    assert found == [(7, 7, 5e-7)]
