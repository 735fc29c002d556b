"""Rollouts on a local Ray cluster, one of whose workers is killed mid-task: `python ray_victim.py DIRECTORY`.

Prints a JSON object: what was given up, which workers were seen making shards, which was killed, and how often the
model's server was asked about each problem.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import ray
from fakes import RuleSandbox, fenced
from openai_server import ChatServer
from processes import descendants
from rollout_victim import benchmark

from mucode_agent.models.load import load_model
from mucode_agent.runs.cluster import Tools, make_shards_on_ray
from mucode_agent.runs.running import Running
from mucode_agent.training.rollouts import open_rollouts
from mucode_agent.verifiers import NoVerifier


def makers(directory):
    """Ray's processes that hold the lock of a shard."""
    found = set()
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            is_task = Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::make_shard")
            held = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()] if is_task else []
            if any(path.startswith(str(directory / "locks")) for path in held):
                found.add(pid)
    return found


def kill_one(directory, seen, killed):
    """After the first shard is there: a process that has held a lock for long enough to have asked the model."""
    before = set()
    while not killed:
        busy = makers(directory)
        seen |= busy
        if busy & before and list(directory.glob("shards/*/*.json")):
            killed.append(min(busy & before))
            os.kill(killed[0], signal.SIGKILL)
        before = busy
        time.sleep(0.3)
    while True:
        seen |= makers(directory)
        time.sleep(0.1)


def main(directory):
    directory, seen, killed = Path(directory), set(), []
    server = ChatServer([fenced("def f(x):\n    return 3")], delay_s=1.0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    spec = f"openai:scripted@{server.url}"
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        asked, sandbox = benchmark(12), RuleSandbox(lambda _: True)
        settings = {"model": load_model(spec), "sandbox": sandbox, "verifier": NoVerifier(), "per_problem": 3}
        run = open_rollouts(asked, directory, max_turns=2, **settings)
        threading.Thread(target=kill_one, args=(directory, seen, killed), daemon=True).start()
        tools = Tools(directory=directory, model=spec, verifier="none", running=Running(), patience=20.0)
        heard = Heard()
        failures = make_shards_on_ray(run, asked.problems, tools, heard, workers=3)
    finally:
        ray.shutdown()
    asked_of = Counter(
        request["messages"][0]["content"].split("number ")[1][:2].rstrip(".") for request in server.requests
    )
    print(
        json.dumps(
            {
                "failures": [failure.cause for failure in failures],
                "makers": len(seen),
                "killed": killed,
                "requests": asked_of,
                "finished": heard.done,
            }
        )
    )


class Heard:
    def __init__(self):
        self.done = Counter()

    def drawn(self, samples):
        pass

    def finished(self, problem_id, outcomes):
        self.done[problem_id] += 1

    def waiting(self, cause, seconds):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
