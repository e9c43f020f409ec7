"""Which of an engine's endpoints answers a request for Anthropic's messages, and how. Pure."""

from functools import partial
from typing import Final

from proxy.dialect.anthropic.answers import message_rewriter, whole_count
from proxy.dialect.anthropic.request import MOST_TOKENS, to_chat
from proxy.dialect.body import Body
from proxy.dialect.rewrite import Translated, Whole

MESSAGES: Final = "/v1/messages"
COUNT: Final = "/v1/messages/count_tokens"


def translate(path: str, body: Body) -> Translated | None:
    """A request of this protocol; None for a path that is not its own. Raises BadRequest."""
    if path not in (MESSAGES, COUNT):
        return None
    chat = to_chat(body.fields)
    made = Body.of(chat)
    if path == COUNT:
        target = "/v1/chat/completions/input_tokens"
        return Translated(target, made, lambda streams: Whole(whole_count), {})
    stops = chat.get("stop")
    rewriter = partial(message_rewriter, stops=stops if isinstance(stops, list) else ())
    return Translated("/v1/chat/completions", made, rewriter, {"max_tokens": MOST_TOKENS})
