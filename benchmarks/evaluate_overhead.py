"""Wall time that an evaluation adds to its own requests, sent raw to the same vLLM server.

One pass of the evaluation is recorded: every request, in order, by problem. It also warms the server's prefix cache.
Then raw passes, which send the recorded requests with as many problems in flight and a problem's requests one after the
other, alternate with evaluation passes into fresh directories: sampling, execution on public tests, selection,
judgement on all tests, and every write to disk.

    python benchmarks/evaluate_overhead.py --model NAME --url http://127.0.0.1:8000/v1 --limit 16 --rounds 3
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import Field

from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.runner import run_benchmark
from mucode_agent.models.base import AnswersOnce
from mucode_agent.models.load import load_model
from mucode_agent.runs.config import Benchmark, Pace
from mucode_agent.tools.sandbox import load_sandbox
from mucode_agent.types import Sample, Sandbox

ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class Recorder(AnswersOnce):
    """Passes requests on and keeps them by problem: what the raw passes send."""

    native_n: bool = True
    inner: Any
    requests: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "recorder"

    async def _answer(self, messages: list[BaseMessage], stop: list[str] | None = None, **options: Any) -> ChatResult:
        sent = [{"role": ROLES[message.type], "content": message.content} for message in messages]
        asked = {name: options[name] for name in ("n", "seed", "temperature", "max_tokens")}
        self.requests.setdefault(str(messages[0].content), []).append({"messages": sent, **asked})
        result: ChatResult = await self.inner._answer(messages, stop, **options)  # noqa: SLF001
        return result


class Counter:
    """A watch that counts tokens."""

    def __init__(self) -> None:
        self.tokens = 0

    def drawn(self, samples: Sequence[Sample]) -> None:
        self.tokens += sum(sample.completion_tokens for sample in samples)

    def finished(self, problem_id: str, outcomes: dict[str, float]) -> None:
        del problem_id, outcomes

    def waiting(self, cause: str, seconds: float) -> None:
        raise RuntimeError(f"the server failed, so nothing was measured ({seconds:.2g} s): {cause}")


def evaluation(
    benchmark: Benchmark, model: BaseChatModel, sandbox: Sandbox, options: argparse.Namespace
) -> tuple[float, int]:
    """Seconds and completion tokens of one evaluation."""
    counter = Counter()
    with tempfile.TemporaryDirectory() as directory:
        started = time.monotonic()
        run_benchmark(
            benchmark,
            Path(directory) / "run",
            model=model,
            model_name=options.model,
            sandbox=sandbox,
            watch=counter,
            n=options.n,
            max_turns=options.turns,
            max_tokens=options.max_tokens,
            greedy=False,
            independent=False,
            pace=Pace(concurrency=options.concurrency),
        )
        return time.monotonic() - started, counter.tokens


async def raw(requests: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> tuple[float, int]:
    """Seconds and completion tokens of the same requests, sent with nothing in between."""
    gate = asyncio.Semaphore(options.concurrency)
    async with httpx.AsyncClient(timeout=3600) as client:

        async def problem(sent: list[dict[str, Any]]) -> int:
            tokens = 0
            async with gate:
                for request in sent:
                    body = {"model": options.model, "logprobs": True, **request}
                    answer = await client.post(f"{options.url}/chat/completions", json=body)
                    answer.raise_for_status()
                    tokens += answer.json()["usage"]["completion_tokens"]
            return tokens

        started = time.monotonic()
        tokens = sum(await asyncio.gather(*(problem(sent) for sent in requests.values())))
        return time.monotonic() - started, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--benchmark", default="humaneval")
    for name, value in {"limit": 16, "n": 5, "turns": 3, "max-tokens": 512, "concurrency": 16, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    benchmark = load_benchmark(options.benchmark, limit=options.limit)
    model = load_model(f"vllm:{options.model}@{options.url}", timeout=3600)
    recorder = Recorder(inner=model)
    with closing(load_sandbox("local")) as sandbox:
        evaluation(benchmark, recorder, sandbox, options)
        print(f"{sum(map(len, recorder.requests.values()))} requests for {len(benchmark.problems)} problems")
        ratios = []
        for number in range(1, options.rounds + 1):
            raw_s, raw_tokens = asyncio.run(raw(recorder.requests, options))
            ours_s, our_tokens = evaluation(benchmark, model, sandbox, options)
            # Answers may differ a little between passes, so speeds are compared rather than times.
            ratios.append((raw_tokens / raw_s) / (our_tokens / ours_s))
            print(
                f"round {number}: raw {raw_s:.2f} s, {raw_tokens} tokens; "
                f"evaluation {ours_s:.2f} s, {our_tokens} tokens; "
                f"time per token {100 * (ratios[-1] - 1):+.1f} %"
            )
    spread = f" (from {100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f})"
    print(f"overhead: {100 * (statistics.median(ratios) - 1):+.1f} %{spread} over {options.rounds} rounds")


if __name__ == "__main__":
    main()
