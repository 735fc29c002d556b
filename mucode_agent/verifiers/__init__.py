"""Verifiers at inference: P(correct) of a turn's candidates, by evidence, by a language model, or by one signal
alone.
"""

from pathlib import Path

from mucode_agent.types import LoadedVerifier, ProblemError
from mucode_agent.verifiers.simple import AgreementVerifier, LogProbVerifier, NoVerifier

DEFAULT = "evidence"
SPECS = (
    "evidence (the one in this package), a CARD.json or a directory that `train verifier` wrote, the hub id of a "
    "single-logit reward model, vllm:DIRECTORY_OR_NAME@http://host:port, judge:MODEL or judge-tournament:MODEL "
    "(any model string), agreement, logprob, or none"
)
_SIMPLE = {verifier.name: verifier for verifier in (NoVerifier, AgreementVerifier, LogProbVerifier)}


def load_verifier(spec: str) -> LoadedVerifier:
    """The verifier that a string names; see `SPECS`.

    Weights in this process load at the first score. For a served verifier the calibration comes from its directory, if
    that is on this machine. Raises ProblemError if the string names no verifier or a package is missing.
    """
    spec = spec.strip()
    if spec in _SIMPLE:
        return _SIMPLE[spec]()
    if spec.startswith(("judge:", "judge-tournament:")):
        return _judge(spec)
    if spec == DEFAULT or spec.endswith(".json"):
        return _evidence(spec)
    if spec.startswith("vllm:"):
        from mucode_agent.verifiers.served import ServedVerifier

        name, at, url = spec.removeprefix("vllm:").rpartition("@")
        if not at or not url.startswith(("http://", "https://")):
            raise ProblemError(f"verifier {spec!r} has no URL: write vllm:DIRECTORY_OR_NAME@http://host:port")
        return ServedVerifier(name, url)
    if not spec:
        raise ProblemError(f"verifier '' names no verifier: give one of {SPECS}")
    from mucode_agent.verifiers.local import LocalVerifier

    return LocalVerifier(spec)


def _judge(spec: str) -> LoadedVerifier:
    from mucode_agent.models.load import load_model
    from mucode_agent.verifiers.judge import LLMJudge, LLMJudgeTournament

    kind, _, model = spec.partition(":")
    return (LLMJudge if kind == "judge" else LLMJudgeTournament)(load_model(model))


def _evidence(spec: str) -> LoadedVerifier:
    from mucode_agent.verifiers.evidence import EvidenceVerifier, read_evidence_card, shipped_card

    card = shipped_card() if spec == DEFAULT else read_evidence_card(Path(spec).expanduser())
    name = DEFAULT if spec == DEFAULT else Path(spec).stem
    inner = load_verifier(card.language_model) if card.language_model else None
    return EvidenceVerifier(card, name=name, language_model=inner)


__all__ = ["DEFAULT", "SPECS", "AgreementVerifier", "LogProbVerifier", "NoVerifier", "load_verifier"]
