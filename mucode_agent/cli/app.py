"""The command line. Results go to standard output, progress and failures to standard error; see EXIT_CODES."""

import itertools
import json
import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from mucode_agent.cli.evaluate import app as evaluate
from mucode_agent.cli.execute import execute
from mucode_agent.cli.output import BAD_INPUT, EXIT_CODES, INFRASTRUCTURE, INTERRUPTED, rank, write_lines
from mucode_agent.cli.serve import mcp, serve
from mucode_agent.cli.solve import solve
from mucode_agent.cli.traces import app as traces
from mucode_agent.cli.traces import rollout
from mucode_agent.cli.train import train
from mucode_agent.console import messages
from mucode_agent.files import in_our_words
from mucode_agent.types import InfrastructureError, ProblemError

app = typer.Typer(
    name="mucode_agent",
    help="Solves programming problems by sampling, running and verifying code over several turns (µCODE).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: " + " · ".join(f"{code} {words}" for code, words in EXIT_CODES.items()),
)


app.add_typer(evaluate, name="evaluate")
app.add_typer(traces, name="traces")
app.command()(solve)
app.command()(execute)
app.command()(rollout)
app.add_typer(train, name="train")
app.command()(serve)
app.command()(mcp)


@app.command()
def schema() -> None:
    """Print the JSON schema of problem.json."""
    from mucode_agent.problems import problem_schema

    write_lines([json.dumps(problem_schema(), indent=2)])


@app.command()
def doctor(
    preload: Annotated[list[str] | None, typer.Option(help="A module that programs may import, such as numpy.")] = None,
) -> None:
    """Test which isolation layers this host supports, from inside the sandbox; exit code 3 if any is missing.

    Give the `--preload` that you will use: the packages' location can change the result. Also lists which embedded
    models' weights are in the cache; nothing is downloaded.
    """
    from mucode_agent.models.embedded import EMBEDDED, held
    from mucode_agent.tools.doctor import examine

    findings = examine(preload or ())
    for finding in findings:
        mark = "yes" if finding.holds else "NO"
        write_lines([f"{finding.name:<11} {mark:<4} {finding.detail}"])
    for weights in map(held, EMBEDDED):
        write_lines([f"weights     {'yes' if weights.there else '–':<4} {weights.name}: {weights.detail}"])
    raise typer.Exit(0 if all(finding.holds for finding in findings) else INFRASTRUCTURE)


def main() -> None:
    """Runs a command; every failure gives one sentence on standard error and a documented exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(app(standalone_mode=False))
    except _MISUSE as error:
        if not error.args or type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            sys.exit(BAD_INPUT)
        _fail(_sentence(error), BAD_INPUT)
    except ProblemError as error:
        _fail(error, BAD_INPUT)
    except InfrastructureError as error:
        _fail(error, INFRASTRUCTURE)
    except typer.Abort:
        _fail("interrupted; nothing was left running", INTERRUPTED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _fail("interrupted; nothing was left running", INTERRUPTED)
        raise


_MISUSE: Any = typer.BadParameter.__mro__[2]
"""The class of all mistakes on a command line, which click or its copy in typer raises."""


def _sentence(error: Any) -> str:
    """The message for a mistake on the command line, with the `--help` to read."""
    words = in_our_words(" ".join(error.format_message().split()).rstrip("."))
    command = error.ctx.command_path if getattr(error, "ctx", None) else "python -m mucode_agent"
    return f"{words[:1].lower()}{words[1:]}{_given(error)}; see `{command} --help`"


def _given(error: Any) -> str:
    """The value of the wrong option, unless the message already shows it."""
    for option in getattr(getattr(error, "param", None), "opts", ()):
        for word, following in itertools.pairwise([*sys.argv[1:], ""]):
            name, equals, value = word.partition("=")
            if name == option and isinstance(error, typer.BadParameter):
                return f", got {(value if equals else following)!r}"
    return ""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Makes SIGTERM end a run as Ctrl-C does, with everything closed."""
    del signum, frame
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells set it for background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _fail(error: Exception | str, code: int) -> NoReturn:
    """Prints the error. Under torchrun it names the process, and prints an interruption only once."""
    whose = f", process {rank()}" if rank() else ""
    if not (whose and code == INTERRUPTED):
        messages().print(f"mucode_agent{whose}: {error}", markup=False)
    sys.exit(code)
