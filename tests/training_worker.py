"""Both trainings on tiny data, by one process or by several under torchrun: `training_worker.py BASE OUT`."""

import json
import sys
from pathlib import Path

from attempts import entry, logits

from mucode_agent.training.expert import ExpertSettings
from mucode_agent.training.generator import GeneratorSettings, train_generator
from mucode_agent.training.relabel import RelabelSettings, relabelled
from mucode_agent.training.verifier import VerifierSettings, train_verifier


def data():
    """Seven problems of unlike size, so that neither rows nor groups fill the last batch."""
    return [
        entry(*[[f"a{i}{'x' * number}", f"b{i}", "y"] for i in range(1 + number % 3)], ["c"], id_=f"P{number}")
        for number in range(7)
    ]


def rows(kept=None):
    scores = {key: value for each in data() for key, value in logits(each).items()}
    return relabelled(data(), scores, RelabelSettings(per_problem=3), ExpertSettings())[:kept]


def both(base, out, **settings):
    options = {"batch_size": 4, "micro_batch": 1, "learning_rate": 1e-2, "epochs": 1, "float32": True} | settings
    generator = train_generator(rows(), base=base, out=out / "generator", settings=GeneratorSettings(**options))
    verifier = train_verifier(data(), base=base, out=out / "verifier", settings=VerifierSettings(**options))
    return generator, verifier


if __name__ == "__main__":
    import os

    import torch

    torch.set_num_threads(1)
    trained = both(sys.argv[1], Path(sys.argv[2]))
    if os.environ.get("RANK", "0") == "0":
        losses = [each.fitted.losses for each in trained]
        (Path(sys.argv[2]) / "losses.json").write_text(json.dumps(losses))
