"""Whether and how much a model is to think, by all the words that clients have for it, in the one
of them that llama-server knows. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.synonyms import EFFORT_KWARGS, KWARGS

EFFORT: Final = "reasoning_effort"
BUDGET: Final = "thinking_budget_tokens"
NOT_AT_ALL: Final = "none"
THINKING: Final = "enable_thinking"
# Fields of other protocols and servers: OpenAI's responses and OpenRouter, Ollama, Anthropic, and
# what else serves Qwen's models.
NAMES: Final = ("reasoning", "think", "thinking", THINKING)


def say_effort(body: Body) -> None:
    """Have a chat say it as `reasoning_effort`, where it only says it otherwise. Before defaults
    come into the body: they count less than any of these names."""
    fields = body.fields
    if EFFORT in fields or not any(name in fields for name in NAMES):
        return
    kwargs = _value(fields, KWARGS)
    if isinstance(kwargs, dict) and any(name in kwargs for name in EFFORT_KWARGS):
        return
    said = {name: _value(fields, name) for name in NAMES}
    changed = next((told for value in said.values() if (told := effort_fields(value))), {})
    if KWARGS in changed:
        if kwargs is None or isinstance(kwargs, dict):
            changed[KWARGS] = {**(kwargs or {}), **changed[KWARGS]}
        else:
            del changed[KWARGS]
    budget = _budget(said["thinking"]) or _budget(said["reasoning"])
    if budget is not None and BUDGET not in fields:
        changed[BUDGET] = budget
    if changed:
        body.change(changed)


def effort_fields(value: Any) -> dict[str, Any]:
    """What llama-server is to be told where one of these fields has this value."""
    effort = _effort(value)
    if isinstance(effort, str):
        return {EFFORT: effort}
    if effort is None:
        return {}
    # No word for how much it is to think: what holds for the model is left to it.
    return {KWARGS: {THINKING: True}} if effort else {EFFORT: NOT_AT_ALL}


def _effort(value: Any) -> bool | str | None:
    """False: it is not to think; True: it is; a text: so much; None: nothing is said."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value or None
    if not isinstance(value, dict):
        return None
    if isinstance(effort := value.get("effort"), str) and effort:
        return effort
    if isinstance(enabled := value.get("enabled"), bool):
        return enabled
    return {"disabled": False, "enabled": True, "adaptive": True}.get(str(value.get("type")))


def _budget(value: Any) -> int | None:
    given = value if isinstance(value, dict) else {}
    budget = given.get("budget_tokens", given.get("max_tokens"))
    return budget if isinstance(budget, int) and not isinstance(budget, bool) else None


def _value(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    return msgspec.json.decode(fields[name]) if name in fields else None
