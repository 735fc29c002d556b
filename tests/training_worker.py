"""Both trainings on tiny data, by one process or by several: `training_worker.py BASE OUT SETTINGS…`.

Each of SETTINGS is JSON: fields of the settings, trained into `OUT/0`, `OUT/1`, …. The environment says
ACCELERATE_USE_FSDP=true where accelerate is to shard, and DIES_AT=n where the last process dies in its forward pass n.
"""

import json
import os
import signal
import sys
from pathlib import Path

from attempts import entry, logits

from mucode_agent.training.generator import train_generator
from mucode_agent.training.relabel import relabelled
from mucode_agent.training.settings import ExpertSettings, GeneratorSettings, RelabelSettings, VerifierSettings
from mucode_agent.training.verifier import train_verifier
from mucode_agent.types import CodeTest


def data():
    """Seven problems of unlike size, so that neither rows nor groups fill the last batch."""
    return [
        entry(*[[f"a{i}{'x' * number}", f"b{i}", "y"] for i in range(1 + number % 3)], ["c"], id_=f"P{number}")
        for number in range(7)
    ]


def held_out():
    found = entry(["a", "b", "y"], ["c"], id_="H")
    other = {"prompt": "Name the tallest tree.", "private_tests": (CodeTest(code="assert f() == 'redwood'"),)}
    return [found.model_copy(update={"problem": found.problem.model_copy(update=other)})]


def rows(kept=None):
    scores = {key: value for each in data() for key, value in logits(each).items()}
    return relabelled(data(), scores, RelabelSettings(per_problem=3), ExpertSettings())[:kept]


def both(base, out, **settings):
    options = {"batch_size": 4, "micro_batch": 1, "learning_rate": 1e-2, "epochs": 1, "float32": True} | settings
    generator = train_generator(rows(), base=base, out=out / "generator", settings=GeneratorSettings(**options))
    verifier = train_verifier(
        data(), base=base, out=out / "verifier", held_out=held_out(), settings=VerifierSettings(**options)
    )
    return generator, verifier


def shard_on_cpus():
    """accelerate shards over accelerators only: here it takes each process for one, and its tensors stay on the CPU."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def begun(state, *args, **kwargs):
        begin(state, *args, **kwargs)
        if state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begun


def die_at(number):
    import torch

    seen = 0

    def count(module, inputs):
        nonlocal seen
        seen += type(module).__name__.endswith("ForCausalLM")
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.nn.modules.module.register_module_forward_pre_hook(count)


if __name__ == "__main__":
    import torch
    from accelerate.state import AcceleratorState

    from mucode_agent.training.fit import end_processes
    from mucode_agent.types import InfrastructureError

    torch.set_num_threads(1)
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if "SHARDED_HERE" in os.environ:
        shard_on_cpus()
    if "DIES_AT" in os.environ and int(rank) == int(world) - 1:
        die_at(int(os.environ["DIES_AT"]))
    base, out = sys.argv[1], Path(sys.argv[2])
    losses = []
    try:
        for number, given in enumerate(sys.argv[3:] or ["{}"]):
            trained = both(base, out / str(number), **json.loads(given))
            losses.append([each.fitted.losses for each in trained])
    except InfrastructureError as error:
        sys.exit(f"rank {rank}: {error}")
    if rank == "0":
        outcome = {"losses": losses, "distributed": AcceleratorState().distributed_type.value}
        (out / "outcome.json").write_text(json.dumps(outcome))
    end_processes()
