"""A run that kills itself: `python evaluation_victim.py DIRECTORY LOG KILL_AT`.

Every draw and every execution is an event; before event KILL_AT the process ends by SIGKILL. LOG gets a line per draw.
"""

import os
import signal
import sys
import time
from pathlib import Path

from fakes import CountingSandbox, LengthVerifier, SeededModel

from mucode_agent.evaluation.report import write_report
from mucode_agent.evaluation.runner import run_benchmark
from mucode_agent.runs.config import Benchmark, Pace
from mucode_agent.types import CodeTest, Problem


def benchmark(count=6):
    made = tuple(
        Problem(
            id=f"Made/{number}",
            prompt=f"Write f, number {number}.",
            entry_point="f",
            public_tests=(CodeTest(code="assert f(1) == 3"),),
            private_tests=(CodeTest(code="assert f(2) == 'a private secret'"),),
        )
        for number in range(count)
    )
    return Benchmark(name="made", split="fixed", testless=False, problems=made)


class Quiet:
    """A watch that keeps what it heard."""

    def __init__(self):
        self.samples, self.done, self.waits = [], {}, []

    def drawn(self, samples):
        self.samples.extend(samples)

    def finished(self, problem_id, outcomes):
        self.done[problem_id] = outcomes

    def waiting(self, cause, seconds):
        self.waits.append(cause)


def evaluate(directory, *, model, sandbox, watch=None, tasks=None, **options):
    settings = {"n": 3, "max_turns": 2, "model_name": "seeded"} | options
    pace = Pace(**{"concurrency": 3, "patience": 0.0} | taken(settings, *Pace.model_fields))
    return run_benchmark(
        tasks or benchmark(),
        Path(directory),
        model=model,
        sandbox=sandbox,
        verifier=LengthVerifier(calibrated=True),
        watch=watch or Quiet(),
        pace=pace,
        **settings,
    )


def taken(options, *names):
    return {name: options.pop(name) for name in names if name in options}


def dying(log, kill_at, pause=0.0):
    """A model and a sandbox whose events kill the process before event `kill_at`."""
    events = 0

    def event():
        nonlocal events
        events += 1
        if events == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    def before(messages, seed, temperature):
        event()
        with Path(log).open("a") as file:
            file.write(f"{temperature} {seed} {hash_of(messages)}\n")
        time.sleep(float(pause))

    return {"model": SeededModel(before=before), "sandbox": CountingSandbox(event)}


def main(directory, log, kill_at):
    evaluate(directory, **dying(log, kill_at))
    write_report(Path(directory))


def hash_of(messages):
    import hashlib

    return hashlib.sha256(repr([(m.type, m.content) for m in messages]).encode()).hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
