"""The judge's process: holds the tests of one suite and decides, candidate after candidate.

It compares values that it has rebuilt from plain data. It never runs the program, and the program never sees it.
"""

import abc
import builtins
import contextlib
import enum
import gc
import itertools
import math
import os
import random
import resource
import signal
import socket
import sys
import time
from decimal import Decimal
from typing import Any

from . import behaviour, codec
from .meeting import interests, meeting, refused
from .proxies import (
    INTERFERED,
    MUTABLE,
    PLAIN_BASE,
    Conversation,
    Doubt,
    Ended,
    ForkServer,
    Handle,
    InvalidTest,
    NotData,
    Remote,
    peak_memory,
    too_slow,
)
from .proxies import show as whole
from .suite import ASKED, CALLABLE, COMPARE, DROPPED, FRESH, IDENTITY, TRUTH, CompiledTest, Suite, compile_suite
from .together import CALLS_NOTHING, Skipped, as_a_runner, failed_pytest, run_no_tests_twice

SHOWN = 400
"""Characters of a value in a report."""
_PRINTED_SHOWN = 4096
_BENT = "the program changed an argument, from which the test may compute what it expects"
_FATAL = frozenset({"timeout", "memory", "output_limit", "early_exit", "infra", "syntax_error"})
_GRACE_S = 2
_GROWN = 64 << 20
"""Bytes by which a judge may grow before another one takes its place."""
_HOST, _FORK_SERVER = 3, 4
"""Descriptors."""
_COLLECT_EVERY = 50
"""Jobs; and at once where a job has left this many objects."""
_COLLECT_ABOVE = 50_000
_COMPARISONS: dict[str, Any] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}

Result = dict[str, Any]


def main(base: dict[str, int]) -> None:
    """Take suites and programs, one after another, until the host closes the channel.

    A message names its suite by a number, with the suite itself the first time, and the numbers to forget. A suite
    that is not `contained` is refused unless the judge is its own alone.
    """
    try:
        host = socket.socket(fileno=_HOST)
        frames = _Frames(host)
        fork_server = ForkServer(socket.socket(fileno=_FORK_SERVER), base)
        signal.signal(signal.SIGVTALRM, too_slow)
        small = peak_memory() + _GROWN
        suites: dict[int, Judge] = {}
        for number in itertools.count(1):
            message = frames.receive()
            for old in message["forget"]:
                suites.pop(old, None)
            if "define" in message:
                suites[message["suite"]] = Judge(message["define"], fork_server)
            judge = suites[message["suite"]]
            elsewhere = message["job"]["judge"] == "together" and not message["job"]["probes"]
            refused = not (message["alone"] or judge.contained or elsewhere)
            report = {"status": "refused"} if refused else judge.judge(message["job"])
            host.sendall(codec.pack({**report, "grown": peak_memory() > small}, "replace"))
            # The collector is off, as everywhere below the fork server.
            if number % _COLLECT_EVERY == 0 or gc.get_count()[0] > _COLLECT_ABOVE:
                gc.collect()
    except (EOFError, OSError):
        pass
    os._exit(0)


class Judge:
    """One suite of tests, compiled once."""

    def __init__(self, suite: dict[str, Any], server: ForkServer) -> None:
        self._server = server
        self._tests: list[dict[str, Any]] = suite["tests"]
        self._entry_point: str | None = suite["entry_point"]
        self._setup: str = suite["setup"]
        self._room_kb = (
            2 * max((len(test.get("stdout", test.get("code", ""))) for test in self._tests), default=0) >> 10
        )
        """A right answer is as long as the expected one: no limit may be shorter."""
        sources = [test["code"] for test in self._tests if "code" in test]
        self._suite: Suite = compile_suite(self._setup, sources, self._entry_point)
        self.contained = self._suite.contained

    def judge(self, job: dict[str, Any]) -> dict[str, Any]:
        """The JSON form of an ExecutionReport."""
        probes: list[str] = job.get("probes") or []
        _allow_cpu(job)
        job["limits"]["output_kb"] = max(job["limits"]["output_kb"], self._room_kb)
        run = _Run(self._server, job, self._setup, self._entry_point)
        results: list[Result | None] = [None] * len(self._tests)
        codes = [index for index, test in enumerate(self._tests) if "code" in test]
        if codes or not self._tests:
            together = bool(codes) and job["judge"] == "together"
            found = run.together(self._suite) if together else run.code_tests(self._suite)
            for index, result in zip(codes, found, strict=False):
                results[index] = result
        dead = run.error if not self._tests else ""
        for index, test in enumerate(self._tests):
            if "code" not in test and not any(result and result["status"] in _FATAL for result in results):
                results[index] = run.stdio_test(test)
        report = run.report([result or {"status": "skipped"} for result in results], dead)
        _allow_cpu(job)
        report["behaviour"] = run.behaviour(probes, self._suite) if report["status"] != "infra" else []
        return report


class _Run:
    """One program under one suite."""

    def __init__(self, server: ForkServer, job: dict[str, Any], setup: str, entry_point: str | None) -> None:
        self._server = server
        self._code: str = job["code"]
        self._limits: dict[str, Any] = job["limits"]
        self._setup = setup
        self._entry_point = entry_point
        self._started = time.monotonic()
        self._cpu_s = 0.0
        self._memory_mb = 0.0
        self._printed = {"stdout": "", "stderr": ""}
        self._judge = "apart"
        self._state = "unjudged"
        self.error = "there was no test"
        self._unseen = set[int]()
        """Numbers of tests that did not see a change of an argument."""

    # --- code tests

    def code_tests(self, suite: Suite) -> list[Result]:
        """One result for each code test, in order; fewer when the program dies.

        A program that empties `xs` must not bend `f(xs) == sorted(xs)`, so that the tests first see no change of an
        argument of a call that returned something. Where there was one, the tests run again and see all changes, as
        in plain Python: what fails so has failed, and what passes only so cannot be judged.
        """
        results = self._apart(suite)
        if not self._unseen:
            return results
        for index, second in enumerate(self._apart(suite, all_changes=True)):
            if index not in self._unseen or index >= len(results):
                continue
            if second["status"] != "passed":
                results[index] = second
            elif results[index]["status"] in ("wrong_answer", "exception"):
                results[index] |= {"status": "unjudged", "error": _BENT, "by_program": True}
        return results

    def _apart(self, suite: Suite, *, all_changes: bool = False) -> list[Result]:
        results: list[Result] = []
        random.seed(0)
        space: dict[str, Any] = {}
        try:
            conversation = Conversation(self._server, self._limits, len(suite.tests) + 1)
        except Ended as ended:
            return self._fail(ended, [])
        try:
            if suite.error:
                return self._fail(Ended("unjudged", suite.error, by_test=True), results)
            marks = interests(suite.excuses, self._code)
            kinds = conversation.load(self._setup, self._code, sorted(suite.wanted), marks=marks)
            self._check_output(conversation)
            if not suite.tests:
                return results
            space = self._space(suite, conversation, kinds)
            for number, test in enumerate(suite.tests):
                conversation.begin()
                conversation.all_changes = all_changes or test.in_place
                _allow_cpu({"limits": self._limits})
                result = self._test(test, space, conversation, suite.wanted - set(kinds))
                result["time_s"] = round(conversation.span_s(), 6)
                results.append(result)
                if conversation.unseen:
                    self._unseen.add(number)
                if result["status"] in _FATAL or isinstance(conversation.fate, Ended):
                    break
        except (Ended, NotData) as fate:
            return self._fail(fate, results)
        except Exception as error:  # noqa: BLE001 - the program raised while it was loaded
            return self._fail(self._output_ended() if conversation.too_much_output() else error, results)
        finally:
            self._close(conversation, silent=all_changes)
            space.clear()  # the tests' functions hold it, and it them: without this they stay until a collection
        if conversation.calls == 0 and all(result["status"] == "passed" for result in results):
            alone = suite.wanted <= kinds.keys()  # else that may be why
            untouched: Result = {"status": "unjudged", "error": "no test used the program"}
            untouched |= {"invalid_test": alone, "by_program": not alone}
            return [{**result, **untouched} for result in results]
        return results

    def together(self, suite: Suite) -> list[Result]:
        """The same, by the program's own process: a verdict that it can forge."""
        results: list[Result] = []
        self._judge = "together"
        try:
            conversation = Conversation(self._server, self._limits, len(suite.tests) + 1)
        except Ended as ended:
            return self._fail(ended, [])
        try:
            if suite.error:
                return self._fail(Ended("unjudged", suite.error, by_test=True), results)
            conversation.load(self._setup, self._code, [], marks=interests((), self._code), together=True)
            for test in suite.tests:
                conversation.begin()
                result = conversation.run_test(test.source, self._entry_point)
                if conversation.too_much_output():
                    result = self._failure(self._output_ended(), None, None)
                elif result["status"] == "passed" and not test.uses_program:
                    result.update(status="unjudged", error="the test does not use the program", invalid_test=True)
                elif reason := refused(conversation.uses, result["status"], result["error"]):
                    result.update(status="unjudged", error=reason, by_program=True)
                results.append({**result, "error": _clean(result["error"]), "time_s": round(conversation.span_s(), 6)})
                if result["status"] in _FATAL:
                    break
        except (Ended, NotData) as fate:
            return self._fail(fate, results)
        except Exception as error:  # noqa: BLE001 - the program raised while it was loaded
            return self._fail(self._output_ended() if conversation.too_much_output() else error, results)
        finally:
            self._close(conversation)
        return results

    def _fail(self, error: BaseException, results: list[Result]) -> list[Result]:
        """The program failed outside any test: its first test that was not run carries the reason."""
        result = self._failure(error, None, None)
        self._state, self.error = result["status"], result["error"]
        return [*results, result]

    def _space(self, suite: Suite, conversation: Conversation, kinds: dict[str, str]) -> dict[str, Any]:
        """The globals of the tests. What the trusted set-up defines wins over the program's names."""
        space: dict[str, Any] = {"__name__": "__test__", "__builtins__": builtins}
        for module in suite.modules:
            space[module] = __import__(module)
        for name, module in suite.library.items():
            if module not in sys.modules and module not in sys.stdlib_module_names:
                lacking = f"the tests use {name!r} without an import, and {module} is not preloaded; preload it"
                raise Ended("unjudged", lacking, by_test=True)
            space[name] = __import__(module) if name in (module, "np") else getattr(__import__(module), name)
        conversation.space, conversation.keeping = space, True
        for name, kind in kinds.items():
            space[name] = conversation.named(name, kind)
        if suite.setup is not None:
            entry = space.get(self._entry_point or "")
            sys.modules["__test__"] = type(sys)("__test__")
            try:
                exec(suite.setup, space)  # noqa: S102 - trusted by definition
            except (Ended, NotData):
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller has to fix it
                failed = InvalidTest(f"the set-up code failed: {type(error).__name__}: {error}"[:500])
                raise (error if hasattr(error, "mucode_error") else failed) from None
            for name, value in space.items():
                if not isinstance(value, Remote) and isinstance(value, type) and value.__module__ == "__test__":
                    conversation.records[name] = value
            if entry is not None:
                space[self._entry_point or ""] = entry
            elif self._entry_point:
                space.pop(self._entry_point, None)
        conversation.keeping = False
        return space

    def _test(
        self, test: CompiledTest, space: dict[str, Any], conversation: Conversation, missing: frozenset[str]
    ) -> Result:
        if test.code is None:
            return {"status": "unjudged", "test": test.source[:SHOWN], "error": test.error[:SHOWN]}
        recorder = _Recorder(test, conversation)
        conversation.mentioned, conversation.changing, conversation.keeping = test.named, test.changes, test.keeps
        space.update({COMPARE: recorder.compare, TRUTH: recorder.truth})
        space.update({DROPPED: recorder.dropped, FRESH: recorder.fresh})
        space.update({ASKED: recorder.asked, IDENTITY: recorder.identity, CALLABLE: recorder.is_callable})
        if test.unittest:
            run_no_tests_twice()
        try:
            exec(test.code, space)  # noqa: S102 - trusted by definition
            if test.check:
                self._call_check(test, space)
            runs = test.runs
            for call in (call for name in test.left for call in as_a_runner(space[name])):
                call()
                runs = True
            if not runs:
                raise Ended("unjudged", CALLS_NOTHING, by_test=True)
            if conversation.fate is not None:  # the test has swallowed it
                raise conversation.fate
            self._check_output(conversation)
        except BaseException as error:  # noqa: BLE001 - everything is a verdict
            cause: BaseException = error
            if conversation.too_much_output():
                cause = self._output_ended()
            elif isinstance(error, NameError) and not hasattr(error, "mucode_error") and error.name in missing:
                cause = _Missing(f"the program does not define {error.name!r}, which the test uses")
            try:
                result = self._failure(cause, recorder, conversation)
                why, by_test = self._doubt(error, result, test, recorder, conversation)
                return {**result, "status": "unjudged", "error": why, "by_program": not by_test} if why else result
            finally:
                _forget(cause)
        text = recorder.only_text()
        return {"status": "passed", "test": text}

    def _doubt(
        self,
        error: BaseException,
        result: Result,
        test: CompiledTest,
        recorder: "_Recorder",
        conversation: Conversation,
    ) -> Doubt:
        """Why the failure may be owed to the two processes of the test and the program, or to the sandbox."""
        if result["status"] == "timeout" and conversation.contended:
            return Doubt("calls from several threads are made one after another, and may wait for each other")
        if isinstance(error, NotData) or result["status"] not in ("wrong_answer", "exception"):
            return Doubt("")
        if isinstance(error, AttributeError) and not hasattr(error, "mucode_error") and _foreign(error.obj):
            conversation.note(f"the test uses an attribute that stays with the program: {_clean(str(error))}")
        if conversation.plain_base and not recorder.compared(error):
            conversation.note(PLAIN_BASE)
        if conversation.again:
            conversation.note(f"the program defines {conversation.again} again, which the set-up defines")
        why, by_test = meeting(f"{self._setup}\n{test.source}", conversation.uses)
        conversation.note(why, by_test=by_test)
        conversation.note(refused(conversation.uses, result["status"], result["error"]))
        return conversation.doubt

    def _call_check(self, test: CompiledTest, space: dict[str, Any]) -> None:
        if test.check_arguments == 0:
            space["check"]()
        elif self._entry_point is None:
            lacking = "the test defines check(candidate), but the job names no entry point"
            raise Ended("unjudged", lacking, by_test=True)
        elif self._entry_point not in space:
            raise _Missing(f"the program does not define {self._entry_point!r}")
        else:
            space["check"](space[self._entry_point])

    def _failure(self, error: BaseException, recorder: "_Recorder | None", conversation: Conversation | None) -> Result:
        result: Result = {"status": "wrong_answer", "error": ""}
        if isinstance(error, Ended | NotData):
            result.update(status=error.status, error=_clean(error.error))
            result["traceback"] = [_clean(line) for line in getattr(error, "frames", [])]
            result["invalid_test"] = isinstance(error, InvalidTest)
        elif isinstance(error, _Missing):
            result.update(status="missing_entry_point", error=str(error))
        elif isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit) and hasattr(error, "mucode_error"):
            result.update(status="early_exit", error=error.mucode_error)
        elif hasattr(error, "mucode_error"):
            frames = [_clean(line) for line in getattr(error, "mucode_frames", [])]
            result.update(status="exception", error=_clean(error.mucode_error), traceback=frames)
        elif isinstance(error, AssertionError) or failed_pytest(error):
            result["error"] = _clean(str(error))[:SHOWN]
        elif not isinstance(error, Exception):
            result.update(status="unjudged", error=f"the test raised {type(error).__name__}, which fails no test")
            result["invalid_test"] = not _hangs_on(conversation, error)
        elif isinstance(error, Skipped) or type(error).__name__ == "SkipTest":
            result.update(status="unjudged", error=_clean(f"the test was skipped: {error}"))
            result["invalid_test"] = not _hangs_on(conversation, error)
        elif isinstance(error, MemoryError):
            result.update(status="unjudged", error="comparing the value needs too much memory")
        else:
            result["error"] = _clean(f"{type(error).__name__}: {error}")
            if conversation is None or conversation.last_call is None:
                result.update(
                    status="unjudged", error=f"the test failed before it called the program: {result['error']}"
                )
                result["invalid_test"] = not _hangs_on(conversation, error)
        if result["status"] == "unjudged" and not result.get("invalid_test"):
            result["by_program"] = not getattr(error, "by_test", False)
        if recorder is not None:
            result.update(recorder.shown(error))
        return result

    # --- programs

    def stdio_test(self, test: dict[str, Any]) -> Result:
        """One run of the program as `__main__`, in a process of its own."""
        result: Result = {"status": "passed", "test": test["stdin"][:SHOWN]}
        try:
            conversation = Conversation(self._server, self._limits, 1)
        except Ended as ended:
            return {**result, "status": ended.status, "error": ended.error}
        printed = ""
        try:
            conversation.feed(test["stdin"])
            conversation.load(self._setup, self._code, [], marks=interests((), self._code), main=True)
            raise Ended("early_exit", INTERFERED)
        except Ended as ended:
            end = self._output_ended() if conversation.too_much_output() else ended
            printed = conversation.output(1 << 30, errors="surrogateescape")
            if end.exit_code != 0:
                result.update(self._failure(end, None, conversation), test=result["test"])
            elif not _same_output(printed, test["stdout"], test.get("compare", "lines")):
                result["status"] = "wrong_answer"
        except Exception as error:  # noqa: BLE001 - the program's own exception
            printed = conversation.output(1 << 30)
            cause = self._output_ended() if conversation.too_much_output() else error
            result.update(self._failure(cause, None, conversation), test=result["test"])
        finally:
            result["time_s"] = round(conversation.span_s(), 6)
            self._close(conversation)
        if reason := refused(conversation.uses, result["status"], result.get("error", "")):
            result.update(status="unjudged", error=reason, by_program=True)
        if result["status"] != "passed":
            result.update(expected=test["stdout"][:SHOWN], actual=_clean(printed[:SHOWN]))
        return result

    # --- behaviour, apart from the tests: nothing here can change a verdict

    def behaviour(self, probes: list[str], suite: Suite) -> list[str]:
        """What the program does on each probe: a call of the entry point, or the standard input of a program."""
        if not probes or suite.error:
            return []
        limits = {**self._limits, "time_s": min(self._limits["time_s"], behaviour.TIME_S)}
        if self._entry_point is None:
            return self._printed_behaviour(probes, limits)

        def opened() -> behaviour.Opened:
            conversation = Conversation(self._server, limits, len(probes) + 1)
            try:
                kinds = conversation.load(self._setup, self._code, sorted(suite.wanted))
                return conversation, self._space(suite, conversation, kinds)
            except BaseException:
                conversation.close()
                raise

        return behaviour.call_outcomes(probes, opened)

    def _printed_behaviour(self, probes: list[str], limits: dict[str, Any]) -> list[str]:
        outcomes: list[str] = []
        spent = 0.0
        for stdin in probes:
            if spent >= behaviour.TOTAL_S:
                break
            try:
                conversation = Conversation(self._server, limits, 1)
            except Ended:
                break
            try:
                conversation.feed(stdin)
                conversation.load(self._setup, self._code, [], main=True)
                outcomes.append("early_exit")
            except Ended as end:
                ended_well = end.exit_code == 0 and not conversation.too_much_output()
                printed = _lines(conversation.output(1 << 30, errors="surrogateescape")) if ended_well else []
                outcomes.append(behaviour.printed_outcome(stdin, printed) if ended_well else end.status)
            except Exception as error:  # noqa: BLE001 - the program's own
                outcomes.append(behaviour.raised(error))
            finally:
                spent += conversation.cpu_s()
                conversation.close()
        return outcomes + [""] * (len(probes) - len(outcomes))

    # --- common

    def _check_output(self, conversation: Conversation) -> None:
        if conversation.too_much_output():
            raise self._output_ended()

    def _output_ended(self) -> Ended:
        return Ended("output_limit", f"printed more than {self._limits['output_kb']} kB")

    def _close(self, conversation: Conversation, *, silent: bool = False) -> None:
        for name, text in self._printed.items():
            if (room := _PRINTED_SHOWN - len(text)) > 0 and not silent:
                self._printed[name] += conversation.output(_PRINTED_SHOWN, error=name == "stderr")[:room]
        end = conversation.close()
        self._cpu_s += float(end.get("cpu", 0.0))
        self._memory_mb = max(self._memory_mb, float(end.get("rss_mb", 0.0)))

    def report(self, results: list[Result], error: str) -> dict[str, Any]:
        failures = [result for result in results if result["status"] != "passed"]
        status = failures[0]["status"] if failures else "passed" if results else self._state
        if failures and not error and self._state != "unjudged":
            error = self.error
        if status == "infra":  # after a test that failed for the program's sake it changes nothing
            error = failures[0].get("error", "")
        return {
            "status": status,
            "judge": self._judge,
            "results": results,
            "error": error,
            **self._printed,
            "time_s": round(self._cpu_s, 6),
            "wall_s": round(time.monotonic() - self._started, 6),
            "memory_mb": round(self._memory_mb, 1),
        }


def _hangs_on(conversation: Conversation | None, error: BaseException) -> bool:
    """Whether an error of the test may come from what it, or a test before it, has learned of the program."""
    return conversation is not None and conversation.calls > 0 and not isinstance(error, ImportError | NameError)


def _forget(error: BaseException | None) -> None:
    """The frames of an error and of those before it, which hold what the program gave."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _about_methods(asked: Any) -> bool:
    """The name of a special method, or an abstract class, which looks for such names."""
    if isinstance(asked, tuple):
        return any(map(_about_methods, asked))
    if isinstance(asked, str):
        return asked.startswith("__")
    return isinstance(asked, abc.ABCMeta) or getattr(asked, "__module__", "") == "typing"


class _Missing(Exception):  # noqa: N818 - a verdict, not an error
    """The program lacks a name."""


class _Recorder:
    """What the rewritten asserts of one test saw last."""

    def __init__(self, test: CompiledTest, conversation: Conversation) -> None:
        self._test = test
        self._conversation = conversation
        self._number: int | None = None
        self._sides: tuple[Any, Any] | None = None
        self._value: Any = None
        conversation.last_call, conversation.last_value = None, None

    def compare(self, number: int | None, operator: str, left: Any, right: Any) -> Any:
        """`number` is None for a comparison that is only a part of an assert, or of none."""
        if number is not None:
            self._number, self._sides = number, (left, right)
        if operator in ("is", "is not"):
            return _same(left, right, self._conversation) is (operator == "is")
        outcome = _COMPARISONS[operator](left, right)
        if operator == "==" and outcome is False and issubclass(type(left), list | tuple | dict):
            self._nan(left, right)
        return outcome

    def asked(self, function: Any, *arguments: Any, **keywords: Any) -> Any:
        name, subject = getattr(function, "__name__", ""), arguments[0] if arguments else None
        if name in ("is_", "is_not", "assertIs", "assertIsNot") and len(arguments) > 1:
            same = _same(arguments[0], arguments[1], self._conversation)
            if name in ("is_", "is_not"):
                return same is (name == "is_")
        elif isinstance(subject, Remote) and function is type and len(arguments) == 1:
            return subject.mucode_type()
        elif isinstance(subject, Handle) and name != "hasattr" and any(map(_about_methods, arguments[1:2])):
            what = f"the test asks what {show(subject)} can do, and every stand-in for an object has all methods"
            raise self._conversation.settled(NotData("unjudged", what))
        return function(*arguments, **keywords)

    def truth(self, number: int, value: Any) -> Any:
        self._number, self._sides = number, None
        return value

    def _nan(self, left: Any, right: Any) -> None:
        """Within a collection, a NaN equals itself and no other, and it is copied on its way."""
        if issubclass(type(right), type(left)) and "nan" in (text := whole(left)) and text == whole(right):
            self._conversation.note("a NaN equals only itself, and values are copied")

    def identity(self, value: Any) -> int:
        """`id` of a test."""
        if not (isinstance(value, Remote) or self._conversation.is_shared(value)):
            what = "the test asks which object a value is, and values are copied on their way"
            raise self._conversation.settled(NotData("unjudged", what, by_test=True))
        return id(value)

    @staticmethod
    def is_callable(value: Any) -> bool:
        """`callable` of a test."""
        return value.mucode_kind in ("function", "class") if isinstance(value, Remote) else callable(value)

    @staticmethod
    def dropped(function: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(function, Remote):
            return function.mucode_call(arguments, keywords, back="always")
        return function(*arguments, **keywords)

    @staticmethod
    def fresh(function: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(function, Remote):
            return function.mucode_call(arguments, keywords, back="never")
        return function(*arguments, **keywords)

    def compared(self, error: BaseException) -> bool:
        """An assert of equality failed."""
        sides = self._sides if isinstance(error, AssertionError) and self._number is not None else None
        return sides is not None and self._test.assertions[self._number or 0].operator in ("==", "!=", "in")

    def only_text(self) -> str:
        return self._test.assertions[0].shown()[:SHOWN] if len(self._test.assertions) == 1 else ""

    def shown(self, error: BaseException) -> dict[str, str]:
        """The statement or call that failed, and both values where an assert compared them."""
        call = self._call_text()
        if not isinstance(error, AssertionError | NotData) or self._number is None:
            return {"test": call or self.only_text() or self._test.source[:SHOWN]}
        assertion = self._test.assertions[self._number]
        literal = assertion.literal
        shown = {"test": assertion.shown() if literal or not call else f"assert {call}"}
        if self._sides is None:
            shown["actual"] = show(self._conversation.last_value) if call else ""
        else:
            actual, expected = reversed(self._sides) if assertion.swapped else self._sides
            text = show(expected)
            if not literal and call:
                shown["test"] += f" {assertion.operator} {text}"
            prefix = "" if assertion.operator in ("==", "is") else f"{assertion.operator} "
            shown.update(expected=(prefix + text)[:SHOWN], actual=show(actual))
        shown["test"] = shown["test"][:SHOWN]
        return shown

    def _call_text(self) -> str:
        if self._conversation.last_call is None:
            return ""
        name, arguments, keywords = self._conversation.last_call
        parts = [*map(show, arguments), *(f"{key}={show(value)}" for key, value in keywords.items())]
        return f"{name}({', '.join(parts)})"[:SHOWN]


def show(value: Any) -> str:
    """A bounded repr of plain data."""
    text = whole(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _foreign(value: Any) -> bool:
    """Not of a plain type: what the program gave may have had the attribute there."""
    return value is not None and (type(value).__module__ != "builtins" or isinstance(value, BaseException | type))


def _same(left: Any, right: Any, conversation: Conversation) -> bool:
    """Whether two values are one object, as far as that can be known of values that were copied on their way."""
    if left is right:
        return True
    if isinstance(left, Remote) and isinstance(right, Remote):
        return left.mucode_is(right)
    alike = type(left) is type(right) and not isinstance(left, bool | None | type)
    if isinstance(left, Remote) or isinstance(right, Remote):
        kinds = [side for side in (left, right) if not isinstance(side, Remote) and isinstance(side, type)]
        alike = any(kind.__module__ != "builtins" for kind in kinds)  # a built-in type crosses as itself
    if conversation.is_shared(left) or conversation.is_shared(right):
        return False
    if alike and not isinstance(left, enum.Enum) and (isinstance(left, (*MUTABLE, type)) or left == right):
        what = "the test asks whether two values are one object, and values are copied on their way"
        raise conversation.settled(NotData("unjudged", what, by_test=True))
    return False


class _Frames:
    """Frames of a trusted peer on a stream."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = bytearray()

    def receive(self) -> Any:
        """The next message. Raises EOFError when the peer is gone."""
        header = self._take(codec.HEADER.size)
        return codec.unpack(self._take(codec.HEADER.unpack(header)[0]))

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            part = self._channel.recv(1 << 16)
            if not part:
                raise EOFError
            self._buffer += part
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _same_output(printed: str, expected: str, compare: str) -> bool:
    if compare == "tokens":
        left, right = printed.lower().split(), expected.lower().split()
        return len(left) == len(right) and all(map(_same_token, left, right))
    if compare == "decimals":
        lines, wanted = printed.strip().split("\n"), expected.strip().split("\n")
        return len(lines) == len(wanted) and all(map(_same_line, lines, wanted))
    return _lines(printed) == _lines(expected)


def _same_token(printed: str, expected: str) -> bool:
    try:
        return printed == expected or math.isclose(float(printed), float(expected), rel_tol=1e-5, abs_tol=1e-5)
    except ValueError:
        return False


def _same_line(printed: str, expected: str) -> bool:
    if printed.strip() == expected.strip():
        return True
    left, right = printed.split(), expected.split()
    try:
        return len(left) == len(right) and all(Decimal(a) == Decimal(b) for a, b in zip(left, right, strict=True))
    except ArithmeticError:  # no number
        return False


def _lines(text: str) -> list[str]:
    """Without the blanks at the end of each line, and without the empty lines at the end."""
    return "\n".join(line.rstrip(" \t\r") for line in text.split("\n")).rstrip("\n").split("\n")


def _clean(text: str) -> str:
    """Bounded, and without the paths of this machine."""
    for path, name in _PATHS:
        text = text.replace(path, name)
    return text[:500].encode("utf-8", "backslashreplace").decode()


_PATHS = sorted({(sys.base_prefix, "<python>"), (sys.prefix, "<python>"), (os.path.dirname(__file__), "<runner>")})


def _allow_cpu(job: dict[str, Any]) -> None:
    """For the next test. The kernel ends a judge that a hostile value keeps busy; its pool then reports a time-out."""
    usage, seconds = resource.getrusage(resource.RUSAGE_SELF), _GRACE_S + 2 * job["limits"]["time_s"]
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + seconds) + 1, hard))
