"""What a run needs: tokens, executions, bytes, GPU hours and processors, from measured constants.

python benchmarks/scale.py                             the table in docs/scale.md
python benchmarks/scale.py --measure DIRECTORY…        the constants of rollouts that are there
python benchmarks/scale.py --problems 20000 --replies 1000 --rate 5000
"""

import argparse
import json
import statistics
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOUR, DAY = 3600, 86_400


@dataclass(frozen=True)
class Measured:
    """Per reply unless said otherwise."""

    completion_tokens: float
    task_tokens: float
    """Of a first prompt."""
    feedback_tokens: float
    """That a later prompt has beside the task and earlier replies, per earlier turn."""
    judged: float
    """Distinct programs that all tests judged."""
    text_bytes: float
    """Of its shard: completions and programs, wherever they stand."""
    other_bytes: float
    """Of its shard: reports, settings, decisions, judgements."""
    packed: float
    """Size of a shard by zlib to its size."""
    failing: tuple[float, ...]
    """Share of a turn's programs that fail the public tests: what enters the next turn."""


MBPP = Measured(
    completion_tokens=133,
    task_tokens=115,
    feedback_tokens=103,
    judged=0.66,
    text_bytes=1407,
    other_bytes=1724,
    packed=0.103,
    failing=(0.596, 0.983),
)
"""705 trajectories at 141 problems of MBPP's training split by Qwen2.5-Coder-0.5B-Instruct: temperature 0.7, two turns,
384 tokens at most."""

VERDICT_MS = 11.0
"""CPU of one program on its tests: docs/sandbox.md, references ×2."""
WORKER_MS = 15.0
"""CPU of a worker for one reply of a server: requests, graph, trace, its side of the sandbox, and the shard."""
PROBLEM_KIB = 3.9
"""Memory of a worker for one problem of its directory."""
START_US = 50
"""CPU of a worker's start for one problem: parse it, name its shard."""
IN_FLIGHT = 256
"""Sequences that keep one vLLM engine full: its default `max_num_seqs` on most GPUs."""

RATES = {"A100, 7B": 3_363.0, "H100, 8B": 12_500.0}
"""Output tokens per second of one GPU with vLLM in bf16. Third-party figures, https://www.morphllm.com/vllm-benchmarks,
for prompts and lengths that are not ours: measure your own with `vllm bench serve`."""


@dataclass(frozen=True)
class Need:
    """Of one round of rollouts."""

    trajectories: float
    replies: float
    completion_tokens: float
    prompt_tokens: float
    executions: float
    cpu_hours: float
    raw_bytes: float
    packed_bytes: float
    memory_gib: float
    start_s: float


def needs(problems: int, per_problem: int, turns: int, of: Measured, completion_tokens: float) -> Need:
    alive, replies, prompt = float(problems * per_problem), 0.0, 0.0
    for turn in range(turns):
        replies += alive
        prompt += alive * (of.task_tokens + turn * (completion_tokens + of.feedback_tokens))
        alive *= of.failing[min(turn, len(of.failing) - 1)]
    executions = replies * (1 + of.judged)
    shard_bytes = replies * (of.text_bytes * completion_tokens / of.completion_tokens + of.other_bytes)
    return Need(
        trajectories=problems * per_problem,
        replies=replies,
        completion_tokens=replies * completion_tokens,
        prompt_tokens=prompt,
        executions=executions,
        cpu_hours=(executions * VERDICT_MS + replies * WORKER_MS) / 1e3 / HOUR,
        raw_bytes=shard_bytes,
        packed_bytes=shard_bytes * of.packed,
        memory_gib=problems * PROBLEM_KIB / 2**20,
        start_s=problems * START_US / 1e6,
    )


def measure(directories: list[Path]) -> Measured:
    from mucode_agent.runs.reading import read_shards
    from mucode_agent.training.data import stream_traces

    drawn = [
        candidate for _, solves in stream_traces(directories) for solve in solves for candidate in solve.candidates
    ]
    turns = [[one for one in drawn if one.turn == turn] for turn in range(1, 1 + max(one.turn for one in drawn))]
    prompts = [statistics.fmean(one.sample.prompt_tokens for one in turn) for turn in turns]
    completion = statistics.fmean(one.sample.completion_tokens for one in drawn)
    judged = sum(len(shard.judgements) for path in directories for _, shard in read_shards(path) if shard)
    texts = [file.read_bytes() for directory in directories for file in directory.glob("shards/*/*.json")]
    whole = sum(map(len, texts))
    bare = sum(len(json.dumps(_without_text(json.loads(text)), ensure_ascii=False).encode()) for text in texts)
    compact = sum(len(json.dumps(json.loads(text), ensure_ascii=False).encode()) for text in texts)
    return Measured(
        completion_tokens=completion,
        task_tokens=prompts[0],
        feedback_tokens=prompts[1] - prompts[0] - completion if len(prompts) > 1 else 0.0,
        judged=judged / len(drawn),
        text_bytes=(compact - bare) / len(drawn),
        other_bytes=(whole - compact + bare) / len(drawn),
        packed=sum(len(zlib.compress(text)) for text in texts) / whole,
        failing=tuple(statistics.fmean(not (one.report and one.report.passed) for one in turn) for turn in turns),
    )


def _without_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "" if key in ("text", "code") else _without_text(below) for key, below in value.items()}
    return [_without_text(below) for below in value] if isinstance(value, list) else value


def table(columns: dict[str, Need], rates: dict[str, float]) -> str:
    def row(words: str, cells: list[str]) -> str:
        return f"| {words} | " + " | ".join(cells) + " |"

    def each(words: str, figure: str, unit: float = 1.0, digits: int = 0) -> str:
        return row(words, [f"{getattr(need, figure) / unit:,.{digits}f}" for need in columns.values()])

    lines = [row("", list(columns)), "|---|" + "---:|" * len(columns)]
    lines += [
        each("trajectories, millions", "trajectories", 1e6, 1),
        each("replies, millions", "replies", 1e6, 1),
        each("completion tokens, billions", "completion_tokens", 1e9, 1),
        each("prompt tokens, billions", "prompt_tokens", 1e9, 1),
        each("executions, millions", "executions", 1e6, 1),
        each("processor hours", "cpu_hours"),
        each("shards, GB", "raw_bytes", 1e9),
        each("shards packed, GB", "packed_bytes", 1e9, 1),
        each("memory of a worker for its problems, GiB", "memory_gib", 1, 1),
        each("start of a worker, s", "start_s"),
    ]
    for name, rate in rates.items():
        hours = [need.completion_tokens / rate / HOUR for need in columns.values()]
        lines.append(row(f"GPU hours ({name}, {rate:,.0f} tokens/s)", [f"{value:,.0f}" for value in hours]))
        gpus = [max(1, -(-value // 24)) for value in hours]
        lines.append(row(f"GPUs for one day ({name})", [f"{value:,.0f}" for value in gpus]))
        cores = [need.cpu_hours / value for need, value in zip(columns.values(), hours, strict=True)]
        lines.append(row(f"processors per GPU ({name})", [f"{value:.1f}" for value in cores]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", type=Path, metavar="DIRECTORY", help="take the constants from rollouts")
    parser.add_argument("--problems", type=int, default=1_000_000)
    parser.add_argument("--per-problem", type=int, default=15)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--reply", type=float, help="tokens of one; default: as measured, and the paper's most, 1000")
    parser.add_argument("--rate", type=float, help="output tokens per second of your GPU")
    asked = parser.parse_args()
    of = measure(asked.measure) if asked.measure else MBPP
    if asked.measure:
        print(json.dumps(of.__dict__, indent=2) + "\n")
    lengths = [asked.reply] if asked.reply else [of.completion_tokens, 1000.0]
    columns = {
        f"{length:,.0f} tokens a reply": needs(asked.problems, asked.per_problem, asked.turns, of, length)
        for length in lengths
    }
    print(table(columns, {"yours": asked.rate} if asked.rate else RATES))
    tasks = -(-IN_FLIGHT // asked.per_problem)
    print(
        f"\nRay: {tasks} tasks of {asked.per_problem} trajectories keep the {IN_FLIGHT} sequences of one engine full."
    )


if __name__ == "__main__":
    main()
