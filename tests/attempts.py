"""Labelled attempts made by hand: `y` is right, everything else wrong."""

from mucode_agent.graphs.selection import normal_form
from mucode_agent.training.data import Attempt, ProblemAttempts, Trajectory
from mucode_agent.types import Candidate, CodeTest, ExecutionReport, Problem, Sample, TestResult, Turn


def program(name):
    return f"def f():\n    return {name!r}"


def is_right(name):
    return name.startswith("y")


def entry(*solves, id_="P", public_right="y"):
    """A problem with solves, each a list of programs by turn; None is a reply without a program.

    A program passes the public tests where its name begins with a letter of `public_right`.
    """
    problem = Problem(
        id=id_,
        prompt=f"Write f for {id_}.",
        entry_point="f",
        public_tests=(CodeTest(code="assert f()"),),
        private_tests=(CodeTest(code="assert f() == 'a private secret'"),),
    )
    attempts, trajectories = [], []
    for number, names in enumerate(solves):
        turns, solve = [], f"{id_}-{number}"
        for place, name in enumerate(names, start=1):
            passed = bool(name) and name[0] in public_right
            status = "passed" if passed else "wrong_answer"
            code = program(name) if name else ""
            candidate = Candidate(
                turn=place,
                index=0,
                sample=Sample(text=f"```python\n{code}\n```" if name else "I do not know.", seed=place),
                code=code,
                report=ExecutionReport(status=status, results=(TestResult(status=status, test="assert f()"),)),
            )
            if name:
                attempts.append(
                    Attempt(
                        solve=solve,
                        turns=tuple(turns),
                        candidate=candidate,
                        form=normal_form(code),
                        correct=is_right(name),
                    )
                )
            turns.append(Turn(best=candidate, candidates=1))
        accepted = turns[-1].best.report.passed
        trajectories.append(Trajectory(solve=solve, turns=tuple(turns), accepted=accepted))
    return ProblemAttempts(problem=problem, attempts=tuple(attempts), trajectories=tuple(trajectories))


def logits(entry, **by_name):
    """Scores of programs by name; the others score 0."""
    return {
        (entry.problem.id, attempt.form): by_name.get(name_of(attempt.candidate.code), 0.0)
        for attempt in entry.attempts
    }


def name_of(code):
    return code.rpartition("return ")[2].strip("'")
