"""Tokens per second of our sampling, of `model.generate(num_return_sequences=n)` and of a vLLM server, in one run.

    python benchmarks/generate.py qwen0.5b [--vllm http://127.0.0.1:8000/v1] [--runs 5] [--tokens 128] [--n 1 5 16]
        [--dtype int8 --dtype bfloat16]

All draw from the same weights at temperature 0.7: ours in each dtype that the processor computes (int8 for an embedded
model on x86, float32, bfloat16 where its instructions are there), transformers alone in float32 and bfloat16, vLLM in
whatever it was started with. They take turns, so that other load on the machine meets all of them; only tokens up to a
completion's end are counted. No prompt is sent twice, so no prefix is cached but the chat template's.

Printed are medians and ranges by wall time, and for what runs in this process the median of one step's milliseconds
and of tokens per second of CPU time, which other load disturbs less.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import HumanMessage

from mucode_agent.models.chat import TransformersChatModel
from mucode_agent.models.checkpoints import INT8, int8_runs, load_engine
from mucode_agent.models.decoding import TransformersEngine
from mucode_agent.models.embedded import EMBEDDED, embedded_checkpoint
from mucode_agent.models.load import load_model
from mucode_agent.models.sampling import sample

QUESTION = "Task {}. Write a Python function `second_largest(numbers)` and explain at length how it works."
PLACES = 4
"""Digits of a task's number, so that all prompts are of one length."""

Draw = Callable[[int, int], list[int]]
"""(n, number) → the tokens of each of n completions for the task of that number."""


class Rate(NamedTuple):
    """One draw."""

    wall: float
    """Tokens per second."""
    cpu: float
    """Tokens per second of this process's CPU time."""
    step: float
    """Milliseconds per token of the longest completion: the prompt's share included."""


def ours(model: Any) -> Draw:
    def draw(n: int, number: int) -> list[int]:
        found = sample(model, [HumanMessage(QUESTION.format(str(number).zfill(PLACES)))], n=n, seed=number)
        return [one.completion_tokens for one in found]

    return draw


def plain(model: str, tokens: int, dtype: str) -> Draw:
    """By transformers alone."""
    import torch

    def draw(n: int, number: int) -> list[int]:
        engine = load_engine(str(embedded_checkpoint(model)) if model in EMBEDDED else model, "cpu", dtype)
        assert isinstance(engine, TransformersEngine)
        content = QUESTION.format(str(number).zfill(PLACES))
        prompt = engine.encode([{"role": "user", "content": content}])
        torch.manual_seed(number)
        rows = engine.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=0.7, top_k=0,
            num_return_sequences=n, max_new_tokens=tokens, pad_token_id=engine.tokenizer.eos_token_id,
        )[:, prompt.shape[1] :].tolist()  # fmt: skip
        return [next((i + 1 for i, token in enumerate(row) if token in engine.ends), len(row)) for row in rows]

    return draw


def dtypes(model: str) -> Iterator[str]:
    """Those in which this processor computes; another one emulates bfloat16."""
    import torch

    if int8_runs("cpu") and (model not in EMBEDDED or EMBEDDED[model].int8):
        yield INT8
    yield "float32"
    features = torch.cpu.get_capabilities()
    if features.get("avx512_bf16") or features.get("amx_bf16"):
        yield "bfloat16"


def contenders(model: str, tokens: int, url: str | None, asked: Sequence[str]) -> dict[str, Draw]:
    found: dict[str, Draw] = {}
    for dtype in asked or dtypes(model):
        mine = TransformersChatModel(model=model, max_tokens=tokens, dtype=dtype, device="cpu")
        found[f"ours, {dtype}"] = ours(mine)
        if dtype != INT8:
            found[f"generate, {dtype}"] = plain(model, tokens, dtype)
    if url is not None:
        found["vLLM"] = ours(load_model(url if url.startswith("vllm:") else f"vllm:{url}", max_tokens=tokens))
    return found


def timed(draw: Draw, n: int, number: int) -> Rate:
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = draw(n, number)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Rate(sum(tokens) / wall, sum(tokens) / cpu, 1000 * wall / max(tokens))


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="embedded models, checkpoint directories or .gguf files")
    parser.add_argument("--vllm", help="URL of a vLLM server of the same weights on this machine")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of one completion")
    parser.add_argument("--n", type=int, nargs="+", default=[1, 5, 16])
    parser.add_argument("--dtype", action="append", default=[], help="one of ours; all that are fast here unless given")
    options = parser.parse_args()
    for model in options.models:
        table(model, contenders(model, options.tokens, options.vllm, options.dtype), options.n, options.runs)


def table(model: str, drawn_by: dict[str, Draw], ns: Sequence[int], runs: int) -> None:
    import torch

    for draw in drawn_by.values():
        draw(1, 0)
    first = next(iter(drawn_by))
    print(f"\n{model}, {torch.get_num_threads()} threads; tokens/s: median (range)\n")
    print(f"| n | by | tokens/s | over {first} | by CPU time | ms per step |\n|---|---|---|---|---|---|")
    number = 0
    for n in ns:
        rates: dict[str, list[Rate]] = {name: [] for name in drawn_by}
        for _ in range(runs):
            for name, draw in drawn_by.items():
                number += 1
                rates[name].append(timed(draw, n, number))
        base = statistics.median(rate.wall for rate in rates[first])
        for name, found in rates.items():
            wall = [rate.wall for rate in found]
            here = name != "vLLM"
            cpu = f"{statistics.median(rate.cpu for rate in found):.1f}" if here else ""
            step = statistics.median(rate.step for rate in found)
            ratio = statistics.median(wall) / base
            print(f"| {n} | {name} | {spread(wall)} | {ratio:.2f} | {cpu} | {step:.1f} |", flush=True)


if __name__ == "__main__":
    main()
