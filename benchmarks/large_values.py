"""Large values into a program and out of it, beside plain Python: what judging apart adds to them.

Run `python benchmarks/large_values.py [--rounds 5]`. Each value is made by the test, given to the program, given back
by it and compared. Plain Python is one process that runs the program and then the test, its start included. The two
take turns, so that a busy machine is busy for both; the lowest time of each counts.
"""

import argparse
import subprocess
import sys
import time

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.types import CodeTest, Job, Limits

VALUES = {
    "10^6 integers": "list(range(10**6))",
    "10^6 floats": "[n / 7 for n in range(10**6)]",
    "5 MB of text that is not ASCII": "'äöü€字' * 400_000",
    "5 MB of ASCII": "'hello wor\\n' * 500_000",
}
IN = ("def f(x): return len(x)", "x = {value}\nassert f(x) == len(x)")
OUT = ("def f(): return {value}", "assert f() == {value}")
BOTH = ("def f(x): return x", "x = {value}\nassert f(x) == x")
WAYS = {"in": IN, "out": OUT, "both ways": BOTH}
LIMITS = Limits(time_s=20, output_kb=64_000, memory_mb=1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    sandbox = LocalSandbox(workers=1)
    sandbox.submit(Job(code="def f(): return 1", tests=(CodeTest(code="assert f() == 1"),))).result(60)
    print(f"Python {sys.version.split()[0]}; {sandbox.isolation}; lowest of {rounds} rounds")
    for name, value in VALUES.items():
        for way, pair in WAYS.items():
            code, test = (text.replace("{value}", value) for text in pair)
            job = Job(code=code, tests=(CodeTest(code=test),), entry_point="f", limits=LIMITS)
            judged, plain = list[float](), list[float]()
            for _ in range(rounds):
                start = time.perf_counter()
                report = sandbox.submit(job).result(120)
                judged.append(time.perf_counter() - start)
                assert report.passed, report
                start = time.perf_counter()
                subprocess.run([sys.executable, "-I", "-c", f"{code}\n{test}"], check=True, timeout=60)
                plain.append(time.perf_counter() - start)
            ratio = min(judged) / min(plain)
            print(f"{name:31} {way:9} {min(judged) * 1e3:6.0f} ms  plain {min(plain) * 1e3:5.0f} ms  x{ratio:.1f}")
    sandbox.close()


if __name__ == "__main__":
    main()
