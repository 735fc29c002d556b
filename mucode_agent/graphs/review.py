"""Approval by a person: the question that LangGraph's interrupt carries, and the answers that it accepts."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mucode_agent.types import Candidate, Review

ACTION = "accept_program"
"""The action's name in the forms of LangChain's HumanInTheLoopMiddleware."""
_DECISIONS = ["approve", "edit", "reject", "respond"]


def question(problem_id: str, best: Candidate, reason: str) -> dict[str, Any]:
    """The question to the person, in our form and in that of a `HITLRequest`."""
    action = {"name": ACTION, "args": {"problem_id": problem_id, "code": best.code}, "description": reason}
    return {
        "question": "Accept this program?",
        "problem_id": problem_id,
        "code": best.code,
        "reason": reason,
        "action_requests": [action],
        "review_configs": [{"action_name": ACTION, "allowed_decisions": _DECISIONS}],
    }


def read_review(answer: Any) -> Review | None:
    """The review in the value that a person resumed with; None if it is none.

    True or false, `{"approved": …, "comment": …, "code": …}`, a decision of HumanInTheLoopMiddleware, or its
    `{"decisions": […]}` with one decision.
    """
    if isinstance(answer, Mapping) and isinstance(decisions := answer.get("decisions"), list) and len(decisions) == 1:
        answer = decisions[0]
    if isinstance(answer, Mapping) and "type" in answer:
        answer = _of_decision(answer)
    try:
        return Review(approved=answer) if isinstance(answer, bool) else Review.model_validate(answer)
    except ValidationError:
        return None


def _of_decision(decision: Mapping[str, Any]) -> Any:
    match decision:
        case {"type": "approve"}:
            return True
        case {"type": "edit", "edited_action": {"args": {"code": str() as code}}}:
            return {"approved": True, "code": code}
        case {"type": "reject"}:
            return {"approved": False, "comment": decision.get("message") or ""}
        case {"type": "respond", "message": message}:
            return {"approved": False, "comment": message}
    return None
