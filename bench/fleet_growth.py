"""What grows how with a fleet: what a front keeps of its nodes, and does with what they tell.

Nodes are made up: each has two models loaded, and the files of so many. Each tells its state once a
second, which is what an idle one does too, and more while it moves experts; every front hears all.

    python -m bench.fleet_growth [--nodes N ...] [--files 20] [--json FILE]
"""

import argparse
import random
import statistics
import time
import tracemalloc
from typing import Any, Final

import msgspec

from bench._options import count, parsed, result_file
from bench._report import table
from bench._tell import tell
from proxy.api.merge_patch import applied
from proxy.fleet.choice import Asked, choose
from proxy.fleet.front.picture import Models, models_of, node_of
from proxy.fleet.state import Fleet

LAYERS: Final = 48
GB: Final = 10**9
HEARD: Final = 2000
CHOSEN: Final = 2000


def told(number: int, models: Models) -> dict[str, Any]:
    """The live state of a node, in the shape of `/admin/events?state`."""
    names = [*models.models][:2]
    return {
        "proxy": {"version": "0", "instance": f"{number}", "models_seen": 1},
        "memory": {
            "host": {"total_bytes": 64 * GB, "available_bytes": 40 * GB},
            "devices": {"CUDA0": {"name": "CUDA0", "total_bytes": 24 * GB, "free_bytes": 2 * GB}},
        },
        "backends": {f"b{index}": backend(name) for index, name in enumerate(names)},
        "requests": {},
    }


def backend(model: str) -> dict[str, Any]:
    layers = [
        {"index": index, "experts": "CUDA0", "experts_bytes": GB // 4, "home": "CUDA0"}
        for index in range(LAYERS)
    ]
    return {
        **{"model": model, "state": "ready", "ctx": 16384, "parallel": 4, "in_flight": 1},
        **{"waiting": 0, "live_moves": True, "layers": layers},
        "bytes": {"CUDA0": {"weights": 3 * GB}},
    }


def patch(turns: random.Random) -> bytes:
    """What a second brings: memory, and a speed."""
    free = turns.randrange(24 * GB)
    return msgspec.json.encode({"patch": {"devices": {"CUDA0": {"free_bytes": free}}}})


def measured(nodes: int, files: int, turns: random.Random) -> dict[str, float]:
    tracemalloc.start()
    fleet, states, models = Fleet(), {}, {}
    every = nodes * files // 2  # each is on two nodes
    for number in range(nodes):
        name = f"node{number}"
        listed = [f"model{turns.randrange(every)}:latest" for _ in range(files)]
        entries = [{"id": each, "meta": {"size_bytes": 8 * GB}} for each in listed]
        models[name] = models_of({"data": entries})
        states[name] = told(number, models[name])
        fleet.update(node_of(name, states[name], models[name], {}, draining=False))
        fleet.set_files(name, models[name].models)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    heard_s = []
    for _ in range(HEARD):
        name, said = f"node{turns.randrange(nodes)}", patch(turns)
        began_s = time.perf_counter()
        state = states[name]
        memory = applied(state["memory"], msgspec.json.decode(said)["patch"])
        states[name] = {**state, "memory": memory}
        fleet.update(node_of(name, states[name], models[name], {}, draining=False))
        heard_s.append(time.perf_counter() - began_s)
    names, chosen_s = [*fleet.models()], []
    for number in range(CHOSEN):
        asked = Asked(turns.choice(names), str(number).encode(), 8192, 4 * GB)
        began_s = time.perf_counter()
        choose(fleet, asked)
        chosen_s.append(time.perf_counter() - began_s)
    return {
        "models": len(names),
        "front_bytes": held,
        "message_s": statistics.median(heard_s),
        "choice_s": statistics.median(chosen_s),
        "choice_99_s": sorted(chosen_s)[int(0.99 * CHOSEN)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=count(), nargs="+", default=[3, 30, 300, 1000])
    parser.add_argument("--files", type=count(), default=20, help="of models, on each node")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    results, rows = {}, []
    for nodes in options.nodes:
        seen = results[nodes] = measured(nodes, options.files, random.Random(options.seed))
        rows.append(
            [
                *(str(nodes), f"{seen['models']:.0f}", f"{seen['front_bytes'] / 1e6:.1f} MB"),
                *(f"{nodes}", f"{1e6 * seen['message_s']:.0f} µs"),
                f"{nodes * seen['message_s']:.1%}",
                f"{1e6 * seen['choice_s']:.0f} µs ({1e6 * seen['choice_99_s']:.0f} at 99 %)",
            ]
        )
    head = ["nodes", "models", "a front keeps", "messages a second", "one takes"]
    head += ["of a core", "a choice"]
    about = f"{options.files} files on each node, each on two; two models loaded."
    tell({"fleet_growth": results}, about, table(head, rows), file=options.json)


if __name__ == "__main__":
    main()
