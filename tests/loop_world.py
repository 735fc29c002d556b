"""A whole training in small: toy problems, a generator that solves some of them, random weights that are trained.

`python loop_world.py OUT BASE KILL_AT`: runs it and ends by SIGKILL before event KILL_AT, if that is not 0. Every draw,
every execution and every file that is opened for writing, renamed or made in OUT is an event; the last line printed is
their number.
"""

import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from fakes import CountingSandbox, ScriptedModel, fenced
from langchain_core.messages import AIMessage

WORDS = ["grass", "harbour", "violin", "granite", "teapot", "comet", "ladder", "saffron", "marsh", "engine"]
TWIN = "lawn"
"""The id of a problem that is the first one again. One of the two is held out, the other not."""
HELD = ["pebble", "lantern", "glacier"]


def problem(word, id_=None):
    return {
        "id": id_ or word,
        "prompt": f"Name the {word} colour.",
        "entry_point": "f",
        "public_tests": [f"assert f('{word}') == 3"],
        "private_tests": [f"assert f('{word}', 'a private secret') == 3"],
    }


def write_problems(directory):
    train = [*map(problem, WORDS), problem(WORDS[0], TWIN)]
    for name, problems in (("train", train), ("validation", map(problem, HELD))):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in problems))
    return directory


def settings(problems, base, **changes):
    """A configuration as TOML would give it."""
    small = {"batch_size": 8, "micro_batch": 2, "learning_rate": 1e-2, "epochs": 1, "save_steps": 2, "float32": True}
    given = {
        "base": str(base),
        "iterations": 2,
        "seed": 3,
        "concurrency": 4,
        "patience": 0.0,
        "problems": {"train": f"jsonl:{problems}/train.jsonl", "validation": f"jsonl:{problems}/validation.jsonl"},
        "rollouts": {"per_problem": 3, "turns": 2, "max_tokens": 64},
        "verifier": {**small, "held_out_share": 0.2, "per_problem": 4},
        "generator": {**small, "max_tokens": 4000},
        "relabel": {"per_problem": 4},
        "validation": {"n": 3, "turns": 2, "max_tokens": 64},
    }
    return given | changes


class ToyModel(ScriptedModel):
    """What it answers hangs on its weights, the messages and the seed; about a third is right."""

    replies: Any = ()
    native_n: bool = False
    weights: str
    before: object = None

    def _reply(self, messages, options):
        if self.before is not None:
            self.before(messages)
        text = "".join(str(message.content) for message in messages)
        chance = random.Random(f"{self.weights}/{text}/{options['seed']}/{options.get('temperature')}")
        value = chance.choice([3, 3, 4, 5, 6, 7])
        usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
        return AIMessage(fenced(f"def f(*x):\n    return {value}"), usage_metadata=usage)


class Toys:
    """Serves a checkpoint as a toy whose answers hang on the checkpoint's very bytes."""

    def __init__(self, before=None):
        self.before = before
        self.asked = []

    def generator(self, checkpoint, adapter, number, *, max_tokens):
        self.asked.append((checkpoint, adapter, number))
        return ToyModel(model=f"toy-{number}", weights=weights_of(checkpoint), before=self.before), f"toy-{number}"

    def close(self):
        pass


def weights_of(directory):
    return hashlib.sha256((Path(directory) / "model.safetensors").read_bytes()).hexdigest()


def train(out, base, problems, *, before=lambda *_: None, console=None, **changes):
    from mucode_agent.training.config import LoopConfig
    from mucode_agent.training.loop import run_loop

    config = LoopConfig.model_validate(settings(problems, base, **changes))
    serving = Toys(before)
    best = run_loop(config, Path(out), sandbox=CountingSandbox(before), serving=serving, console=console)
    return best, serving


def main(out, base, kill_at):
    import torch

    torch.set_num_threads(1)
    events = 0

    def event(*_):
        nonlocal events
        events += 1
        if events == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name, arguments):
        written = name == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wxa"
        place = str(arguments[0]) if arguments else ""
        if (written or name in ("os.rename", "os.mkdir", "os.remove", "shutil.rmtree")) and place.startswith(out):
            event()

    sys.addaudithook(audit)
    train(out, base, Path(base).parent, before=event)
    print(events)


if __name__ == "__main__":
    main(*sys.argv[1:])
