"""Where a test and a program would meet if they ran in one process.

They do not, so a test that fails may have failed for that reason: it captured what the program printed elsewhere, or
seeded the random numbers of its own process. Such a failure says nothing about the program.
"""

import functools
import io
import re
import tokenize

_PLACES = (
    (
        "output",
        r"redirect_std|capsys|capfd|sys\.(__)?std(out|err)|StringIO",
        r"print|stdout|stderr|write|logging|input",
    ),
    ("input", r"\binput\b|sys\.stdin|StringIO", r"\binput\b|stdin|fileinput"),
    ("random numbers", r"\brandom\b|\bseed\b", r"\brandom\b|\bsecrets\b|uuid"),
    ("files", r"\bopen\(|\bos\.|pathlib|\bPath\b|tempfile|shutil", r"\bopen\b|\bos\b|pathlib|tempfile|shutil|sqlite3"),
    ("the environment", r"environ|putenv|chdir|sys\.(argv|path|modules)", r"environ|getenv|getcwd|\bsys\b|argparse"),
    ("patched names", r"\bmock\b|\bpatch\b|monkeypatch|setattr\(|builtins\.|globals\(", r""),
    ("introspection", r"inspect|__code__|__closure__|__globals__|getsource|dataclasses|signature|__wrapped__", r""),
    (
        "callbacks",
        r"\blambda\b|^\s+def |@|^def (?!check\b|test)",
        r"inspect|__code__|__closure__|signature|__annotations__|getsource",
    ),
    ("exceptions' causes", r"__cause__|__context__|__traceback__|__notes__|traceback|exc_info", r""),
    ("warnings or logs", r"warnings|logging|assertWarns|assertLogs|getLogger", r""),
    ("events", r"asyncio|\bawait\b|threading|concurrent|contextvars|weakref|\bgc\b|getrefcount|getsizeof", r""),
    ("global names", r"^\s*(global|nonlocal)\b", r""),
    ("clocks", r"\btime\.|datetime\.now|perf_counter|freeze", r"\btime\b|datetime"),
)
_PROCESSES = r"\bos\.(system|popen|fork|forkpty|spawn\w*|exec\w*|posix_spawn\w*|pipe2?)\b|\bsubprocess\.\w+\("
_ASKS = re.compile(_PROCESSES)
_MAY_ASK = re.compile(
    r"^\s*(from|import)\s.*\b(subprocess|multiprocessing|ProcessPoolExecutor|pty|socket|socketserver|urllib|http|asyncio)\b|"
    + _PROCESSES,
    re.MULTILINE,
)
_REFUSALS = re.compile(
    r"\w*(PermissionError|FileNotFoundError|OSError|BrokenProcessPool|BrokenPipeError|URLError|gaierror)\b"
)
_WORDS = (tokenize.COMMENT, tokenize.STRING)
_FOUND = [(what, re.compile(test, re.MULTILINE), re.compile(program)) for what, test, program in _PLACES]


def meeting(test: str, program: str) -> str:
    """The first place where both may be, as a reason; empty where there is none."""
    code = _without_words(program)
    for what, in_test, in_program in _FOUND:
        if in_test.search(test) and in_program.search(code):
            return f"the test and the program run apart and may meet in one process only: {what}"
    return ""


def refused(program: str, status: str, error: str) -> str:
    """The reason where a failure comes from what the sandbox refuses to a program that asks for it, or empty."""
    found = None
    if status == "wrong_answer":  # it may have swallowed the refusal
        found = _ASKS.search(_without_words(program))
    elif status == "exception" and _REFUSALS.match(error):
        found = _MAY_ASK.search(_without_words(program))
    return f"the sandbox refuses processes and the network: {found[0].strip()[:80]}" if found else ""


@functools.lru_cache(maxsize=16)
def _without_words(program: str) -> str:
    """The source without comments and the insides of strings, which do nothing. As it is where it has no tokens."""
    lines = list(io.StringIO(program))
    try:
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(program).readline) if t.type in _WORDS]
    except (tokenize.TokenError, SyntaxError, ValueError):
        return program
    for token in reversed(tokens):
        (first, start), (last, end) = token.start, token.end
        rest = lines[last - 1][end:]
        lines[first - 1 : last] = [lines[first - 1][:start] + ("" if token.type == tokenize.COMMENT else "''") + rest]
    return "".join(lines)
