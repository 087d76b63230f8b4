"""How much faster a target answers from several replicas, and what becomes of those that fail.

    python -m benchmarks.replicas --out docs/results/replicas.md

Runs from a checkout: the servers are those of the tests (``tests.fakes``), each a process of its
own on this machine, and answer after a simulated latency. Nothing is kept on disk.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from tests.fakes.api_chat import Messages
from tests.fakes.api_faults import CHAT_PATH, Fault, Seen
from tests.fakes.api_server import ApiServer

CALLS, CALLS_OF_A_STORY = 240, 480
REPEATS = 3
COUNTS = (1, 2, 4)
LATENCIES = (0.05, 0.5)
CONCURRENCY = 8
_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit threads

INTRODUCTION = f"""\
# Replicas

```
python -m benchmarks.replicas --out docs/results/replicas.md
```

{CALLS} calls of a target behind an API, {CONCURRENCY} at once at each replica (as by default). The
servers are those of the tests, each a process of its own on the same machine; they answer after a
simulated latency. Median of {REPEATS} times, on {{cores}} busy CPU cores.
"""

AT_BEST = f"""
*At best*: {CALLS} calls, divided by {CONCURRENCY} and by the number of replicas, times the latency.
At 50 ms the client is what bounds it: one thread, which on these cores, shared with the servers,
sends no more than some 300 calls a second, however many replicas there are.

## What becomes of replicas that fail

{CALLS_OF_A_STORY} calls in portions of 96, as a run asks them; latency 0.2 s, three replicas,
`target.api.attempts=1`: a call that fails at one replica is sent to another one, and has not used
up an attempt. *Same*: the answers are those of one server alone, in the same order.
"""


def answer(messages: Messages) -> str:
    """Something that depends on the call alone."""
    return f"seen: {messages[-1]['content']}"


def is_call(seen: Seen) -> bool:
    """Not one of the questions about what a server can do."""
    text = str(seen.body.get("messages", [{}])[-1].get("content", ""))
    return seen.path == CHAT_PATH and text.startswith("text ")


def serve(port: Any, latency: float, dies_at: int | None) -> None:
    """A server in a process of its own, until it is ended; it may end itself."""

    def rule(seen: Seen) -> Fault | None:
        if is_call(seen):
            if seen.number == dies_at:
                os._exit(1)  # as a kill: no word to anybody
            time.sleep(latency)
        return None

    with ApiServer(answer, faults=rule, port=port.value) as server:
        port.value = server.port
        time.sleep(3600)


class Process:
    """A server that can be killed and started again."""

    def __init__(self, latency: float, dies_at: int | None = None) -> None:
        self._port = _SPAWN.Value("i", 0)
        self._latency = latency
        self.start(dies_at)

    def start(self, dies_at: int | None = None) -> None:
        """Serve, at the port of the last time."""
        told = self._port.value
        self._process = _SPAWN.Process(
            target=serve, args=(self._port, self._latency, dies_at), daemon=True
        )
        self._process.start()
        while not told and not self._port.value:
            time.sleep(0.01)

    def wait(self) -> None:
        """Until it has died."""
        self._process.join()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port.value}/v1"

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()


@contextmanager
def target_at(servers: Sequence[Process], **api: Any) -> Any:
    """A target there."""
    # Here, not above: each server is a process that reads this file, too.
    from stableprompt.llm_config import TargetConfig
    from stableprompt.models.targets.answer_cache import AnswerCache
    from stableprompt.models.targets.api import ApiTarget

    settings = {"base_url": [server.url for server in servers], "longest_pause_seconds": 2.0}
    config = TargetConfig.model_validate({"model": "fake-model", "api": {**settings, **api}})
    with closing(ApiTarget(config, AnswerCache(None))) as target:
        yield target


def texts(count: int) -> list[list[dict[str, str]]]:
    """Conversations, each another."""
    return [[{"role": "user", "content": f"text {number}"}] for number in range(count)]


def throughput(latency: float, count: int) -> str:
    """A line of the first table."""
    seconds = []
    with ExitStack() as stack:
        servers = [stack.enter_context(closing(Process(latency))) for _ in range(count)]
        for _ in range(REPEATS):
            with target_at(servers) as target:
                started = time.perf_counter()
                found = target.generate(texts(CALLS), 4)
                seconds.append(time.perf_counter() - started)
                assert not found.failed
    taken = statistics.median(seconds)
    best = CALLS / CONCURRENCY / count * latency
    return f"| {latency * 1000:.0f} ms | {count} | {taken:.2f} | {best:.2f} | {CALLS / taken:.0f} |"


@dataclass(frozen=True)
class Story:
    """What happens to three replicas."""

    name: str
    servers: Callable[[], list[Process]]
    meanwhile: Callable[[list[Process]], None] = lambda servers: None


def _again(servers: list[Process]) -> None:
    servers[0].wait()
    time.sleep(1.0)
    servers[0].start()


STORIES = (
    Story("all three work", lambda: [Process(0.2) for _ in range(3)]),
    Story("one is killed at its 50th call", lambda: [Process(0.2, 50), Process(0.2), Process(0.2)]),
    Story(
        "one is killed at its 50th call and started again 1 s later",
        lambda: [Process(0.2, 50), Process(0.2), Process(0.2)],
        _again,
    ),
    Story(
        "two are killed, at their 30th and 60th call",
        lambda: [Process(0.2, 30), Process(0.2, 60), Process(0.2)],
    ),
    Story("one takes three times as long", lambda: [Process(0.6), Process(0.2), Process(0.2)]),
    Story("one takes twenty times as long", lambda: [Process(4.0), Process(0.2), Process(0.2)]),
)


def told(story: Story) -> str:
    """A line of the second table."""
    with ExitStack() as stack:
        servers = [stack.enter_context(closing(server)) for server in story.servers()]
        thread = Thread(target=story.meanwhile, args=(servers,), daemon=True)
        with target_at(servers, attempts=1) as target:
            thread.start()
            started = time.perf_counter()
            # In portions, as a run asks.
            found = []
            for start in range(0, CALLS_OF_A_STORY, target.at_once):
                portion = texts(CALLS_OF_A_STORY)[start : start + target.at_once]
                found += target.generate(portion, 4).texts
            seconds = time.perf_counter() - started
            requests = target.requests
        thread.join()
    same = found == [f"seen: text {number}" for number in range(CALLS_OF_A_STORY)]
    shares = [f"{own['sent']} ({own['set_aside']})" for own in requests["replicas"].values()]
    return (
        f"| {story.name} | {seconds:.1f} | {' | '.join(shares)} | {requests['retries']} | "
        f"{'yes' if same else 'NO'} |"
    )


def report() -> str:
    """Both tables."""
    lines = [INTRODUCTION.format(cores=os.cpu_count())]
    lines += [
        "| latency | replicas | seconds | at best | calls a second |",
        "|---|---|---|---|---|",
    ]
    lines += [throughput(latency, count) for latency in LATENCIES for count in COUNTS]
    lines += [AT_BEST, "| what happens | seconds | requests to the 1st (set aside) | to the 2nd | "]
    lines[-1] += "to the 3rd | sent again | same |"
    lines += ["|---|---|---|---|---|---|---|", *map(told, STORIES)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables, or write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = report()
    if given.out is None:
        print(found, end="")
    else:
        given.out.write_text(found)


if __name__ == "__main__":
    main()
