"""A fleet of a thousand machines and ten thousand models, made up, in one process: how good and how
dear choices are.

Conversations come at random, ask a popular model more often than others (Zipf), and go on after a
while. Three ways of choosing have the same trace: ours; the least busy node that has the file; any
node that has it. A node gives its memory as one machine does: experts leave devices for a newcomer,
then idle models end, the longest idle first.

    python -m bench.fleet_choice [--nodes 1000] [--models 10000] [--requests 100000] [--json FILE]
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench._fleet_machine import CTX, GB, SLOTS, Machine, Running
from bench._options import count, parsed, result_file
from bench._report import table
from bench._tell import tell
from proxy.fleet.choice import Asked, Choice, choose
from proxy.fleet.state import Fleet

# Seconds: of an answer, and until a conversation goes on.
ANSWER_S, PAUSE_S = 8.0, 40.0
TURNS = 5  # of a conversation, in the mean
BUSY = 0.4  # of all slots of as many models as fit once on each node

Chooser = Callable[[Fleet, Asked, random.Random], Choice | None]


@dataclass(slots=True)
class Outcome:
    requests: int = 0
    same_node: int = 0  # of those that went on with a conversation
    went_on: int = 0
    loads: int = 0
    waits_s: list[float] = field(default_factory=list)
    choices_s: list[float] = field(default_factory=list)
    told: int = 0  # states that nodes have told
    decisions_s: list[float] = field(default_factory=list)  # who gives way, on the nodes
    moved_bytes: int = 0


def ours(fleet: Fleet, asked: Asked, _: random.Random) -> Choice | None:
    return choose(fleet, asked)


def least_busy(fleet: Fleet, asked: Asked, turns: random.Random) -> Choice | None:
    nodes = sorted(fleet.with_file(asked.model), key=lambda node: node.name)
    turns.shuffle(nodes)
    calmest = min(nodes, key=lambda node: sum(x.in_flight + x.waiting for x in node.loaded))
    return Choice(calmest.name, "wait")


def any_node(fleet: Fleet, asked: Asked, turns: random.Random) -> Choice | None:
    names = sorted(node.name for node in fleet.with_file(asked.model))
    return Choice(turns.choice(names), "wait")


WAYS: dict[str, Chooser] = {"ours": ours, "least busy": least_busy, "any": any_node}


class World:
    """One run of a trace."""

    def __init__(self, options: argparse.Namespace, chooser: Chooser) -> None:
        self._turns = random.Random(options.seed)
        self._chooser, self._own = chooser, random.Random(options.seed + 1)
        self._count = options.requests
        self.fleet = Fleet()
        self._machines = {f"node{n}": Machine(f"node{n}") for n in range(options.nodes)}
        self._sizes = {
            f"model{n}": (self._turns.randint(1, 6) * GB, self._turns.randint(2, 40) * GB)
            for n in range(options.models)
        }
        self._names = [*self._sizes]
        self._weights = [*itertools.accumulate(1 / rank for rank in range(1, options.models + 1))]
        files: dict[str, list[str]] = {name: [] for name in self._machines}
        for rank, model in enumerate(self._names):
            # Popular ones are on many machines, each on two at least.
            copies = max(2, min(options.nodes, options.nodes // (rank + 1)))
            for name in self._turns.sample([*self._machines], copies):
                files[name].append(model)
        for name, machine in self._machines.items():
            self.fleet.update(machine.told())
            self.fleet.set_files(name, files[name])
        self._where: dict[bytes, str] = {}
        self._events: list[tuple[float, int, str, bytes, str]] = []
        self._order = itertools.count()
        self.seen = Outcome()
        self._rate = BUSY * options.nodes * SLOTS / ANSWER_S / TURNS

    def run(self) -> Outcome:
        arrivals = self._conversations()
        self._push(*next(arrivals))
        while self._events and self.seen.requests < self._count:
            now_s, _, what, key, model = heapq.heappop(self._events)
            if what == "ask":
                if key not in self._where:
                    self._push(*next(arrivals))
                self._ask(now_s, key, model)
            else:
                self._answered(now_s, key, model, what)
        for machine in self._machines.values():
            self.seen.decisions_s += machine.decisions_s
            self.seen.moved_bytes += machine.moved_bytes
        return self.seen

    def _conversations(self) -> Iterator[tuple[float, str, bytes, str]]:
        now_s = 0.0
        for number in itertools.count():
            now_s += self._turns.expovariate(self._rate)
            (model,) = self._turns.choices(self._names, cum_weights=self._weights)
            yield now_s, "ask", f"conversation {number}".encode(), model

    def _push(self, at_s: float, what: str, key: bytes, model: str) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), what, key, model))

    def _ask(self, now_s: float, key: bytes, model: str) -> None:
        asked = Asked(model, key, CTX, self._sizes[model][0], self._where.get(key))
        began_s = time.perf_counter()
        choice = self._chooser(self.fleet, asked, self._own)
        self.seen.choices_s.append(time.perf_counter() - began_s)
        assert choice is not None
        machine = self._machines[choice.node]
        self.seen.requests += 1
        if before := self._where.get(key):
            self.seen.went_on += 1
            self.seen.same_node += before == choice.node
        self._where[key] = choice.node
        running = machine.running.get(model)
        if running is None:
            self.seen.loads += 1
            running = machine.load(model, *self._sizes[model], now_s)
        running.used_s = now_s
        if running.busy < SLOTS:
            self._begin(now_s, now_s, running, key, model, machine)
        else:
            running.line.append((now_s, key))
        self._tell(machine)

    def _begin(
        self, asked_s: float, now_s: float, running: Running, key: bytes, model: str, on: Machine
    ) -> None:
        running.busy += 1
        starts_s = max(now_s, running.ready_s)
        self.seen.waits_s.append(starts_s - asked_s)
        takes_s = self._turns.lognormvariate(math.log(ANSWER_S) - 0.5, 1.0)
        self._push(starts_s + takes_s, on.name, key, model)

    def _answered(self, now_s: float, key: bytes, model: str, name: str) -> None:
        machine = self._machines[name]
        running = machine.running[model]
        running.busy -= 1
        running.used_s = now_s
        if running.line:
            asked_s, waiting = running.line.pop(0)
            self._begin(asked_s, now_s, running, waiting, model, machine)
        if self._turns.random() > 1 / TURNS:
            self._push(now_s + self._turns.expovariate(1 / PAUSE_S), "ask", key, model)
        else:
            self._where.pop(key, None)
        self._tell(machine)

    def _tell(self, machine: Machine) -> None:
        self.seen.told += 1
        self.fleet.update(machine.told())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=count(), default=1000)
    parser.add_argument("--models", type=count(), default=10_000)
    parser.add_argument("--requests", type=count(), default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    rows, results, about = [], {}, ""
    for name, chooser in WAYS.items():
        tracemalloc.start() if name == "ours" else None
        world = World(options, chooser)
        held = tracemalloc.get_traced_memory()[0] if name == "ours" else 0
        tracemalloc.stop()
        seen = results[name] = world.run()
        waits, dear = sorted(seen.waits_s), sorted(seen.choices_s)
        way = sorted(seen.decisions_s)
        rows.append(
            [
                name,
                f"{seen.same_node / max(seen.went_on, 1):.1%}",
                f"{seen.loads / seen.requests:.3f}",
                f"{statistics.mean(waits):.2f} s",
                f"{waits[int(0.99 * len(waits))]:.1f} s",
                f"{1e6 * statistics.median(dear):.0f} µs",
                f"{1e6 * dear[int(0.99 * len(dear))]:.0f} µs",
                f"{seen.moved_bytes / seen.requests / GB:.2f} GB",
                f"{1e6 * statistics.median(way):.0f} µs",
                f"{1e6 * way[int(0.99 * len(way))]:.0f} µs",
            ]
        )
        if held:
            told = f"{seen.told / seen.requests:.1f} states told a request"
            about = f"; {held / 1e6:.0f} MB for what a front knows and the world around; {told}"
    head = ["", "same node again", "loads a request", "wait, mean", "99 %", "a choice", "99 %"]
    head += ["experts moved a request", "who gives way", "99 %"]
    scale = f"{options.nodes} nodes, {options.models} models, {options.requests} requests{about}."
    tell({"fleet_choice": results}, scale, table(head, rows), file=options.json)


if __name__ == "__main__":
    main()
