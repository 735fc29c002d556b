"""A worker that kills itself: `python rollout_victim.py DIRECTORY LOG KILL_AT PAUSE`.

Every draw and every execution is an event; before event KILL_AT the process ends by SIGKILL. LOG gets a line per draw,
which takes PAUSE seconds.
"""

import sys
from pathlib import Path

from evaluation_victim import Quiet, SeededModel, benchmark, dying, taken
from fakes import CountingSandbox

from mucode_agent.runs.config import Pace
from mucode_agent.training.rollouts import roll_out


def rollouts(directory, *, model=None, sandbox=None, watch=None, tasks=None, **options):
    settings = {"per_problem": 3, "max_turns": 2} | options
    pace = Pace(**{"concurrency": 4, "patience": 0.0} | taken(settings, *Pace.model_fields))
    return roll_out(
        tasks or benchmark(),
        Path(directory),
        model=model or SeededModel(),
        sandbox=sandbox or CountingSandbox(lambda: None),
        watch=watch or Quiet(),
        pace=pace,
        **settings,
    )


def main(directory, log, kill_at, pause):
    rollouts(directory, **dying(log, kill_at, pause))


if __name__ == "__main__":
    main(*sys.argv[1:])
