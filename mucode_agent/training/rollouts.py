"""Rollouts: K trajectories per problem, drawn from the current generator and judged outside the graph.

Step 1 of the paper's algorithm 1: D_i = {(x, s_t, y_t, R(x, y_t))}. A trajectory is one solve. It ends when its program
passes the public tests, or after T turns. Trajectories of many problems run concurrently, so the generator is never
idle. A problem's requests begin with the same messages, which a server's prefix cache can reuse.
"""

from pathlib import Path
from typing import Any, Unpack

from mucode_agent.graphs.settings import Options, stated_settings
from mucode_agent.models.embedded import EMBEDDED, embedded_identity
from mucode_agent.models.identity import model_name, weights_sha256
from mucode_agent.runs.config import Arm, Benchmark, Pace
from mucode_agent.runs.directory import RunDirectory
from mucode_agent.runs.retry import Failure, ProgressListener
from mucode_agent.runs.worker import begin_run, work
from mucode_agent.types import ProblemError, Sandbox, Verifier
from mucode_agent.verifiers import NoVerifier

CONCURRENCY = 64
"""Default number of concurrent trajectories."""


def roll_out(
    benchmark: Benchmark,
    directory: Path,
    *,
    model: Any,
    sandbox: Sandbox,
    watch: ProgressListener,
    verifier: Verifier | None = None,
    pace: Pace | None = None,
    **asked: Any,
) -> list[Failure]:
    """Makes the shards that `directory` lacks, together with any other workers, until every problem has its shard.

    For the other arguments see `open_rollouts`. Returns the problems that were given up. Raises ProblemError if the
    directory holds another run, and InfrastructureError if model, sandbox or verifier failed for longer than `pace`
    allows.
    """
    scorer = verifier or NoVerifier()
    run = open_rollouts(benchmark, directory, model=model, sandbox=sandbox, verifier=scorer, **asked)
    return work(run, benchmark.problems, model, sandbox, scorer, watch, pace or Pace(concurrency=CONCURRENCY))


def open_rollouts(
    benchmark: Benchmark,
    directory: Path,
    *,
    model: Any,
    sandbox: Sandbox,
    verifier: Verifier,
    weights: str = "",
    per_problem: int = 15,
    command: str = "",
    **search: Unpack[Options],
) -> RunDirectory:
    """The directory, new or continued.

    `per_problem` is K. `search` has the fields of `graphs.settings.StatedSettings`; n defaults to 1, as in the paper's
    algorithm 1, where every candidate is fed back. `weights` identifies the model's weights if its name does not, as
    for a server that swaps adapters; weights on this machine are identified by their digest. Raises ProblemError if a
    setting is out of range or the directory holds another run.
    """
    if per_problem < 1:
        raise ProblemError(f"per_problem must be at least 1, got {per_problem}")
    return begin_run(
        benchmark,
        directory,
        [Arm.of("rollout", stated_settings({"n": 1, **search}), repeats=per_problem)],
        model=model,
        model_name=model_name(model),
        weights=weights or weights_digest(model),
        sandbox=sandbox,
        verifier=verifier,
        command=command,
    )


def weights_digest(model: Any) -> str:
    """SHA-256 of a checkpoint's files on this machine; empty for a model that has only a name.

    An embedded model with an adapter has the digest of both, because a later version may ship another adapter under the
    same name.
    """
    named = getattr(model, "model", None)
    if isinstance(named, str) and named in EMBEDDED:
        return embedded_identity(named).partition("@")[2]
    if not isinstance(named, str) or not (path := Path(named).expanduser()).exists():
        return ""
    return weights_sha256(path)
