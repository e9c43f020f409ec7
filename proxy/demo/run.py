"""The command `demo`: the main job in front of the user, with the real server on a small model.

It fetches a model that can talk, or writes one that cannot, starts the proxy as a user would, shows
an answer while experts move to the device by an edit of `policies.toml` and back by the operator's
word, and compares with the answer without moves.
"""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from proxy.demo.model import demo_model
from proxy.demo.servers import START_S, DemoError, device, half_the_cores, serve, until_up
from proxy.demo.trained import NotToBeHad, trained_model
from proxy.engine.ports import free_port
from proxy.engine.runtime_dir import runtime_dir

MODEL = "demo"
# Why its experts move, as the page says it too.
WHO = {"policy": "you saved the policy", "operator": "you set it"}
POLICY = """\
# Edited by the demo while it runs: the proxy notices, and moves experts between two tokens.
[server]
port = {port}
drain = "5s"
[catalog]
state = {state}
{rpc}{threads}
[models.{model}]
path = {path}
moe_cpu_layers = {split}
ctx = 4096
parallel = 2
"""


@dataclass(frozen=True, slots=True)
class Talk:
    """What a model is asked, and at which tokens of its answer experts move: to the device by the
    policy file, back by the operator."""

    path: Path
    prompt: str
    tokens: int
    to_device_at: int
    to_cpu_at: int
    to_its_end: bool  # of the answer, not of the tokens


@dataclass(slots=True)
class Answer:
    """One streamed answer: its text, and the time between its tokens in seconds."""

    text: str = ""
    gaps_s: list[float] = field(default_factory=list)

    @property
    def longest_ms(self) -> float:
        return max(self.gaps_s, default=0.0) * 1000

    @property
    def usual_ms(self) -> float:
        ordered = sorted(self.gaps_s)
        return ordered[len(ordered) // 2] * 1000 if ordered else 0.0


def main(*, keep: bool = False) -> int:
    """Run the demo; returns the exit status."""
    try:
        asyncio.run(_demo(keep))
    except DemoError as error:
        print(f"moe-proxy demo: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped")
        return 130
    return 0


async def _demo(keep: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    # Otherwise the server and the device would outlive us.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    talk = await asyncio.to_thread(_model)
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(runtime_dir(os.environ, infix="demo-"))
        rpc = await device(stack)
        port = free_port()
        policy = _Policy(folder / "policies.toml", port=port, path=talk.path, rpc=rpc)
        policy.write(split="full")
        url = f"http://127.0.0.1:{port}"
        print(f"3. moe-proxy serve --policies {folder}")
        log = folder / "serve.log"
        server = await stack.enter_async_context(serve(folder, log))
        session = await stack.enter_async_context(aiohttp.ClientSession(url))
        await until_up(session, server, log)
        print(f"   serves at {url}, its log is {log}")
        await _show(session, policy, talk)
        _what_next(url, keep)
        if keep:
            print("\nIt serves until Ctrl-C.")
            with contextlib.suppress(asyncio.CancelledError):  # that is how it is to end
                await server.wait()
            print("\nended")


def _model() -> Talk:
    """One that talks sense, or where it cannot be had one that is made here."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe-proxy"
    print(f"1. A small mixture-of-experts model, kept in {cache}", flush=True)
    try:
        talk = Talk(
            trained_model(cache),
            "What is the capital of France, and what is it known for?",
            tokens=200,
            to_device_at=12,
            to_cpu_at=48,
            to_its_end=True,
        )
    except NotToBeHad as error:
        print(f"   A trained one cannot be had: {error}.")
        print("   One with random weights stands in. Its words mean nothing.")
        talk = Talk(
            demo_model(cache),
            "Tell me a long story about a river, a mill and a winter without snow.",
            tokens=240,
            to_device_at=40,
            to_cpu_at=140,
            to_its_end=False,
        )
    print(f"   {talk.path.name}, {talk.path.stat().st_size / 1e6:.0f} MB", flush=True)
    return talk


@dataclass(slots=True)
class _Policy:
    """The demo's policy file."""

    file: Path
    port: int
    path: Path
    rpc: str | None

    def write(self, split: str) -> None:
        """As an editor does it: a temporary file, then a rename."""
        rpc = f'[devices]\nrpc = ["{self.rpc}"]\n' if self.rpc else ""
        # The stand-in computes on the same cores: two sides that fight over them are slower than
        # either.
        threads = f"[engine]\nthreads = {half_the_cores()}\n" if self.rpc else ""
        text = POLICY.format(
            port=self.port,
            rpc=rpc,
            threads=threads,
            model=MODEL,
            path=json.dumps(str(self.path)),
            # Whatever else runs here has its own.
            state=json.dumps(str(self.file.with_name("state"))),
            split=json.dumps(split),
        )
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self.file)


async def _show(session: aiohttp.ClientSession, policy: _Policy, talk: Talk) -> None:
    print("4. It is loaded with all experts on the CPU, and asked without moves, to compare with.")
    await _settled(session)
    still = await _stream(session, talk, {}, print_it=False)
    print(f"   {len(still.gaps_s) + 1} tokens, one every {still.usual_ms:.0f} ms")
    print(f"\n5. The same again, while experts move.\n\n> {talk.prompt}\n")

    async def by_policy() -> None:
        policy.write(split="none")

    async def by_operator() -> None:
        backend = (await _backend(session))["id"]
        body = {"moe_cpu_layers": "full"}
        async with session.put(f"/admin/backends/{backend}/split", json=body) as answer:
            answer.raise_for_status()

    moved = await _stream(
        session,
        talk,
        {
            talk.to_device_at: ('policies.toml is saved with moe_cpu_layers = "none"', by_policy),
            talk.to_cpu_at: (f"moe-proxy set {MODEL} --moe-cpu-layers full", by_operator),
        },
        print_it=True,
    )
    await _settled(session)
    _report(await _backend(session), still, moved)


async def _stream(
    session: aiohttp.ClientSession,
    talk: Talk,
    at: dict[int, tuple[str, Callable[[], Awaitable[None]]]],
    *,
    print_it: bool,
) -> Answer:
    """Stream one answer, and do at a token's number what `at` says, without waiting for it."""
    answer = Answer()
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": talk.prompt}],
        "max_tokens": talk.tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": not talk.to_its_end,
        "cache_prompt": False,
    }
    tasks = []
    async with session.post("/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise DemoError(f"the proxy answered {response.status}: {await response.text()}")
        last, count = None, 0
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            delta = json.loads(line[6:])["choices"][0]["delta"]
            piece = delta.get("content") or delta.get("reasoning_content") or ""
            if not piece:
                continue
            now = time.perf_counter()
            if last is not None:
                answer.gaps_s.append(now - last)
            last, count = now, count + 1
            answer.text += piece
            if print_it:
                print(piece, end="", flush=True)
            if count in at:
                what, act = at[count]
                print(f"\n   >> {what}\n", flush=True)
                tasks.append(asyncio.ensure_future(act()))
    await asyncio.gather(*tasks)
    return answer


def _report(backend: dict[str, Any], still: Answer, moved: Answer) -> None:
    print("\n\n6. What happened")
    for move in backend["migrations"][-4:]:
        why = WHO.get(move["why"], move["why"])
        print(
            f"   {why}: experts of {move['layers']} layers moved, "
            f"moe_cpu_layers {move['from']} -> {move['to']}, "
            f"copied in {move['staged_s'] * 1000:.0f} ms beside the answer, "
            f"a pause of {move['gate_s'] * 1000:.1f} ms"
        )
    for name, answer in (("without moves", still), ("with moves", moved)):
        print(
            f"   {name:13}: longest gap between two tokens {answer.longest_ms:.0f} ms "
            f"(usual {answer.usual_ms:.0f} ms)"
        )
    same = still.text == moved.text
    print(f"   The text is {'the same' if same else 'NOT the same'} as without moves.")
    if not same:
        raise DemoError("a move changed the text, which it must not")


def _what_next(url: str, keep: bool) -> None:
    # Another terminal may be in any folder.
    command = (
        "moe-proxy" if shutil.which("moe-proxy") else shlex.quote(os.path.abspath(sys.argv[0]))
    )
    if not keep:
        print(
            f"\n7. Try next: {command} demo --keep, which goes on serving, with a page to look at."
        )
        return
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 40,
        "moe_cpu_layers": 6,
    }
    print(f"\n7. Try next\n   {url}/ui/   shows it all: where the experts are, and a slider")
    print(f"   curl {url}/v1/chat/completions -d '{json.dumps(body)}'")
    print("   In another terminal:")
    print(f"   export MOE_PROXY_URL={url}   # where the next commands look")
    for words in (f"run {MODEL}", f"set {MODEL} --moe-cpu-layers 3", "ps --watch"):
        print(f"   {command} {words}")
    print(f"   export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=any      # for every OpenAI client")
    print(f"   export ANTHROPIC_BASE_URL={url}                         # for Claude Code")
    print(
        f"   export OLLAMA_HOST={url}                                # for ollama and its clients"
    )


async def _backend(session: aiohttp.ClientSession) -> dict[str, Any]:
    async with session.get("/admin/state") as answer:
        backends = (await answer.json())["backends"]
    return dict(next(b for b in backends if b["model"] == MODEL and b["state"] == "ready"))


async def _settled(session: aiohttp.ClientSession) -> None:
    """Load the model, and wait until its experts are where they were asked to be."""
    async with session.post(f"/admin/models/{MODEL}/load") as answer:
        if answer.status != 200:
            raise DemoError(f"the model cannot be loaded: {await answer.text()}")
    async with asyncio.timeout(START_S):
        while not (await _backend(session))["settled"]:
            await asyncio.sleep(0.05)
