"""Tokens per second of our batched sampling beside `model.generate(do_sample=True, num_return_sequences=n)`.

Both draw from the same checkpoint at temperature 0.7, ours with the dtype that it takes by itself (int8 for an embedded
model on an x86 CPU) and the other with torch's fastest one; only tokens up to a completion's end are counted. The two
take turns, so that other load on the machine meets both. Prints medians and ranges, the best of each, and the ratio of
the medians by wall time and by CPU time, which other load disturbs less.

    python benchmarks/generate.py CHECKPOINT... [--runs 5] [--tokens 128]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import HumanMessage

from mucode_agent.models import sample
from mucode_agent.models.chat import TransformersChatModel
from mucode_agent.models.checkpoints import best_device, best_dtype

QUESTION = "Write a Python function `second_largest(numbers)` and explain at length how it works."


def ours(model: TransformersChatModel, n: int, seed: int) -> int:
    return sum(s.completion_tokens for s in sample(model, [HumanMessage(QUESTION)], n=n, seed=seed))


def plain(model: TransformersChatModel, n: int, seed: int) -> int:
    """By transformers alone."""
    import torch

    engine = model.engine
    prompt = engine.encode([{"role": "user", "content": QUESTION}])
    torch.manual_seed(seed)
    rows = engine.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=0.7, top_k=0,
        num_return_sequences=n, max_new_tokens=model.max_tokens, pad_token_id=engine.tokenizer.eos_token_id,
    )[:, prompt.shape[1] :].tolist()  # fmt: skip
    return sum(next((i + 1 for i, token in enumerate(row) if token in engine.ends), len(row)) for row in rows)


def rates(draw: Callable[[TransformersChatModel, int, int], int], *arguments: Any) -> tuple[float, float]:
    """Tokens per second of wall time and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = draw(*arguments)
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="directories, .gguf files, or embedded models")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of one completion")
    parser.add_argument("--dtype", help="torch's name; the fastest of this machine unless given")
    options = parser.parse_args()
    print("tokens/s: median (range)")
    for checkpoint in options.checkpoints:
        model = TransformersChatModel(model=checkpoint, max_tokens=options.tokens, dtype=options.dtype)
        whole = TransformersChatModel(
            model=checkpoint, max_tokens=options.tokens, dtype=options.dtype or best_dtype(best_device())
        )
        ours(model, 1, 0), plain(whole, 1, 0)
        for n in (1, 5, 16):
            pairs = [(rates(ours, model, n, run), rates(plain, whole, n, run)) for run in range(options.runs)]
            wall, cpu = (([mine[i] for mine, _ in pairs], [theirs[i] for _, theirs in pairs]) for i in (0, 1))
            print(
                f"{checkpoint} n={n}: ours {spread(wall[0])} (best {max(wall[0]):.1f}), "
                f"generate {spread(wall[1])} (best {max(wall[1]):.1f}), "
                f"ratio {ratio(*wall):.2f}, by CPU time {ratio(*cpu):.2f}",
                flush=True,
            )


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(mine) / statistics.median(theirs)


if __name__ == "__main__":
    main()
