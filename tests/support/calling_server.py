"""A backend whose model calls the shell of whoever asks, and says what came of it.

Generated models have random weights: they call a tool only where they have to, and programs such
as Codex leave them the choice. So this stands in for a model that chooses; it thinks first.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

THOUGHT = "I have to look."
WORD = "sunny"
# The shells that clients offer, and how each is told what to run.
SHELLS: dict[str, Any] = {
    "exec_command": {"cmd": f"echo {WORD}"},
    "shell_command": {"command": f"echo {WORD}"},
    "shell": {"command": ["echo", WORD]},
}


def deltas(body: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The pieces of the answer, the last one with why it ends."""
    yield {"role": "assistant", "content": None}, None
    last = body["messages"][-1]
    if last["role"] == "tool":
        before = body["messages"][-2]
        said = {
            "result": WORD in json.dumps(last["content"]),
            "thought": before.get("reasoning_content"),
        }
        yield {"content": json.dumps(said)}, None
        yield {}, "stop"
        return
    names = [tool["function"]["name"] for tool in body.get("tools", [])]
    name = next((name for name in SHELLS if name in names), None)
    if name is None:
        yield {"content": f"no shell among {names}"}, "stop"
        return
    yield {"reasoning_content": THOUGHT}, None
    function = {"name": name, "arguments": ""}
    yield {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}, None
    for piece in json.dumps(SHELLS[name]).partition(":"):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, None
    yield {}, "tool_calls"


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for delta, reason in deltas(body):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        await _send(answer, {"model": body["model"], "choices": [choice]})
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    await _send(answer, {"model": body["model"], "choices": [], "usage": usage})
    await answer.write(b"data: [DONE]\n\n")
    return answer


async def _send(answer: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await answer.write(b"data: %s\n\n" % json.dumps(chunk).encode())


async def health(_: web.Request) -> web.Response:
    return web.Response(text="ok")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.get("/health", health), web.post("/v1/chat/completions", chat)])
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None)
