"""Verifiers at inference: R(x, y) for a problem and one program, in this process or served by vLLM."""

from collections.abc import Sequence

from mucode_agent.types import Problem, ProblemError, Score, Verifier

SPECS = (
    "none, a directory that `train verifier` wrote, the hub id of a single-logit reward model, or "
    "vllm:DIRECTORY_OR_NAME@http://host:port"
)


class NoVerifier:
    """Scores every program equally and claims no probability: selection rests on the tests alone."""

    name = "none"

    def score(self, problem: Problem, codes: Sequence[str]) -> list[Score]:
        del problem
        return [Score(logit=0.0)] * len(codes)


def load_verifier(spec: str) -> Verifier:
    """The verifier that a string names: `none`, `DIRECTORY_OR_HUB_ID`, or `vllm:DIRECTORY_OR_NAME@URL`.

    Weights in this process load at the first score. Of a served verifier the directory, where it is at hand, gives the
    calibration. Raises ProblemError where the string means no verifier or what it needs is not installed.
    """
    spec = spec.strip()
    if spec == "none":
        return NoVerifier()
    if spec.startswith("vllm:"):
        from mucode_agent.verifiers.served import ServedVerifier

        name, at, url = spec.removeprefix("vllm:").rpartition("@")
        if not at or not url.startswith(("http://", "https://")):
            raise ProblemError(f"verifier {spec!r} has no URL: write vllm:DIRECTORY_OR_NAME@http://host:port")
        return ServedVerifier(name, url)
    if not spec:
        raise ProblemError(f"verifier '' means nothing here: give one of {SPECS}")
    from mucode_agent.verifiers.local import LocalVerifier

    return LocalVerifier(spec)


__all__ = ["SPECS", "NoVerifier", "load_verifier"]
