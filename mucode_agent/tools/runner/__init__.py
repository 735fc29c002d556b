"""Judges untrusted programs. Standard library only, Python 3.11 to 3.14: the directory can be copied anywhere.

In process:  `from mucode_agent.tools.runner.pool import Pool`
    Pool(workers=None, preload=(), pending=None).submit(job) -> Future[report]
    Pool.layers() -> (names of the layers that hold, {missing layer: reason}); Pool.close()
    `job` and `report` are the JSON forms of `mucode_agent.types.Job` and `ExecutionReport`, plain dicts. Keys of
    `job` with a default there may be left out, and so may those of a result in `report`. Cancelling the future kills
    the program. A broken sandbox is a report with status "infra".

As a command, wherever the directory was copied to, under any name that is an identifier:
    `python3 DIRECTORY/remote.py JOBS.json --nonce NONCE [--workers N]`
    JOBS.json holds a list of jobs. Standard output gets one line, `NONCE` and a space and the JSON
    `{"reports": [...], "layers": [...], "missing": {...}}`, reports in the order of the jobs. Programs cannot write
    to that stream, and they cannot read the nonce. Exit code 0 unless the command itself failed.

The processes:
    host (pool.py) ── fork server (zygote.py) ─┬─ judge (judge.py, proxies.py, suite.py): shared by suites that cannot
                                               │  touch each other (contained.py), else one per suite
                                               └─ candidate (candidate.py): one per program, forked ahead
The judge holds the tests and compares. The candidate holds the program and answers calls with plain data (codec.py);
values that both may change are kept the same on either side (mirror.py).
Where a job says `"judge": "together"`, the candidate runs the code tests (together.py): it can forge the verdict.
Both are confined (confine.py); the fork server sees neither programs nor tests.
"""
