"""Reports which isolation layers this host supports, and what each does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.runner.confine import STRONG
from mucode_agent.tools.runner.pool import Broken, Pool
from mucode_agent.types import CodeTest, ExecutionReport, Job, Record

_MEANING = {
    "namespaces": "no network, no process and no file of the host is visible; written files are limited and deleted",
    "landlock": "files outside the standard library cannot be opened, even after an escape from the namespaces",
    "seccomp": "no new process or program, no socket, no tracing, no rarely needed kernel interface",
    "rlimits": "memory, CPU time, threads, descriptors and file sizes are limited",
}
_REMEDY = {
    "namespaces": "allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run the container "
    "with a seccomp profile that permits unshare)",
    "landlock": "Linux 5.13 or newer, with landlock among the modules of /sys/kernel/security/lsm",
    "seccomp": "Linux on x86_64 or aarch64, in a container that permits seccomp",
    "rlimits": "a POSIX system",
}


_PROBE = """
import os, resource, socket, threading

def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno not in (None, 0)
    return False

def namespaces():
    return os.getpid() == 1 and not os.path.exists(HOST_FILE) and not os.path.exists("/proc/self")

def landlock():
    return refused(os.listdir, "/") and refused(os.open, "/dev", os.O_RDONLY)

def seccomp():
    return refused(os.fork) and refused(socket.socket) and refused(os.chmod, "/dev/null", 0o666)

def rlimits():
    names = ("RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC")
    return all(resource.getrlimit(getattr(resource, name))[1] != resource.RLIM_INFINITY for name in names)
"""
"""Each function tries, from inside, what its layer must refuse, to find layers that are active but do not work."""


class Finding(Record):
    """One layer of isolation, or the sandbox as a whole."""

    name: str
    holds: bool
    detail: str
    """What the layer does; if it is missing, why, and how to get it."""


def examine(preload: Sequence[str] = ()) -> list[Finding]:
    """One finding per layer, then `verdicts` (a right and a wrong program were judged), then `isolation` (the summary).

    A layer works if the host supports it and a program that tries what it refuses fails. `preload` are the packages
    that the sandbox will be used with; their location can change the result.
    """
    pool: Pool[dict[str, Any]] = Pool(1, preload=preload)
    try:
        names, missing = pool.layers()
        failing = _failing(pool, names)
    except (Broken, OSError) as error:
        return [Finding(name="isolation", holds=False, detail=f"the local sandbox does not start: {error}")]
    finally:
        pool.close()
    findings = [_finding(layer, names, missing, failing) for layer in STRONG]
    findings.append(_verdicts([finding.name for finding in findings if finding.holds]))
    strong = all(finding.holds for finding in findings)
    detail = "strong: every layer works" if strong else "weaker: programs run, with a warning; "
    "`--require-isolation strong` refuses"
    return [*findings, Finding(name="isolation", holds=strong, detail=detail)]


def _failing(pool: Pool[dict[str, Any]], layers: Sequence[str]) -> dict[str, str]:
    """The active layers that let a program through, with the program's result."""
    code = f"HOST_FILE = {str(Path(__file__).resolve())!r}\n{_PROBE}"
    jobs = [{"code": code, "tests": [f"assert {layer}() is True"]} for layer in layers]
    reports = [pool.submit(job).result() for job in jobs]
    return {
        layer: f"{report['status']} {report['error'] or report['results'][0].get('error', '')}".rstrip()
        for layer, report in zip(layers, reports, strict=True)
        if report["status"] != "passed"
    }


def _finding(layer: str, names: Sequence[str], missing: dict[str, str], failing: dict[str, str]) -> Finding:
    if layer in failing:
        detail = f"active, but a program that tries what it refuses was not stopped ({failing[layer]}); report this"
    elif layer in names:
        detail = _MEANING[layer]
    else:
        detail = f"{missing.get(layer, 'not available')}. Remedy: {_REMEDY[layer]}"
    return Finding(name=layer, holds=layer in names and layer not in failing, detail=detail)


def _verdicts(layers: list[str]) -> Finding:
    sandbox = LocalSandbox(workers=1, layers=layers)
    jobs = [Job(code=f"def f(x):\n    return x {sign} 1", tests=(CodeTest(code="assert f(1) == 2"),)) for sign in "+-"]
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reports: list[ExecutionReport] = [sandbox.submit(job).result() for job in jobs]
    finally:
        sandbox.close()
    right = [report.status for report in reports] == ["passed", "wrong_answer"]
    detail = ", ".join(f"{report.status} {report.error}".rstrip() for report in reports)
    return Finding(name="verdicts", holds=right, detail=detail)
