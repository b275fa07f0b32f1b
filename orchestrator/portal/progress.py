"""A start as the browser hears of it: the hub's progress events, cut down to what a person needs. Pure."""

from __future__ import annotations

from typing import Any

from orchestrator.pages.languages import Language
from orchestrator.portal import words


def relayed(event: dict[str, Any], url: str, reader: Language) -> dict[str, Any]:
    """What the browser is told of one of the hub's progress events; nothing when it says nothing to a person."""
    if event.get("ready"):
        return {"ready": True, "url": url}
    if isinstance(event.get("failure"), dict):
        told = event["failure"]
        return {
            "failed": failure_words(reader, str(told.get("code")), str(told.get("message") or ""), told.get("hint"))
        }
    if event.get("failed"):
        message = str(event.get("message") or "").removeprefix("Spawn failed: ")
        return {"failed": failure_words(reader, "", message, None)}
    if event.get("step") in words.STEPS:
        done, total = int(event.get("done") or 0), int(event.get("total") or 0)
        shown: dict[str, Any] = {"step": event["step"]}
        if total > 0:
            shown |= {
                "done": done,
                "total": total,
                "text": reader.text(words.ROWS, done=reader.number(done), total=reader.number(total)),
            }
        return shown
    return {}


def failure_words(reader: Language, code: str, message: str, hint: str | None) -> dict[str, str]:
    """What a person reads when a start failed: what happened, the exact message, and what to do."""
    return {
        "title": words.said(reader, words.FAILURES, code, words.FAILED),
        "message": words.exactly(reader, message),
        "advice": words.said(reader, words.ADVICE, code, words.ADVISED),
        "hint": hint or "",
    }
