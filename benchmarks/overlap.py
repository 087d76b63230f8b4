"""What is gained by asking the target about prompts while the agent writes the others.

    python -m benchmarks.overlap --out docs/results/overlap.md

Runs from a checkout, with the tiny agent and the server of the tests (``tests.fakes``). Both are
slowed down: the agent by a pause for each token of all rows, as a large one on a GPU takes it, the
server by a latency. Each run is made twice, with ``target.api.ask_ahead`` and without it, and what
they leave behind is compared byte by byte.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.fakes.api_faults import CHAT_PATH, Seen
from tests.fakes.word_agent import make_agent, make_task
from tests.fakes.word_server import KEY, KEY_VARIABLE, serve_words, target_at

from stableprompt import build, speakers
from stableprompt.config import make_config
from stableprompt.models.agent import AgentLLM
from stableprompt.tuning.records import Silence

TOKEN_SECONDS = 0.1
STEPS = 4
PROMPTS, EXAMPLES, LONGEST = 16, 8, 40
CASES = ((0.05, 8), (0.5, 8), (0.5, 32), (5.0, 32))  # seconds, calls at once
FILES = ("result.json", "prompts.jsonl", "pairs.jsonl", "test.json")

INTRODUCTION = f"""\
# Asking while the agent writes

```
python -m benchmarks.overlap --out docs/results/overlap.md
```

A step writes {PROMPTS} prompts of {LONGEST} tokens at most and scores them on {EXAMPLES} examples,
as by default. The agent is the tiny one of the tests (random weights), with a pause of
{{pause:.0f}} ms for each token that all rows are written by: {{writing:.0f}} s a step. The server
is that of the tests, and answers after a simulated latency. Without calls ahead a step is writing,
then scoring, then the update (one or two seconds here). In the first step nothing is asked ahead;
the seconds are the median of the {STEPS - 1} steps after it, on {{cores}} busy CPU cores.

| latency | calls at once | seconds a step, nothing ahead | with calls ahead | gain | files equal |
|---|---|---|---|---|---|
"""

CLOSING = """
The rollout is exactly on-policy in both: calls ahead are made inside a step only, about prompts
that the step's own weights have written, and the update waits for all of them. *Files equal*:
`{files}`, byte for byte.

What is gained by this lies between nothing and the time that writing takes; its share is largest
where scoring takes about as long as writing. A prompt is sent as soon as its last token is written,
so where all prompts of a step are equally long, only the seed prompt is answered meanwhile. Calls
ahead are not cut into portions either (no limit has to be looked at between them), so that nobody
waits for the last call of a portion: with a long latency that adds to the gain.
"""


def is_call(seen: Seen) -> bool:
    """Not one of the questions about what the server can do."""
    return seen.path == CHAT_PATH and len(seen.body.get("messages", ())) > 1


def slow_agent() -> AgentLLM:
    """The tiny one, as slow as a large one."""
    agent = make_agent(seed=7, temperature=0.8)
    logits = agent.head.logits

    def slowly(states: Any) -> Any:
        time.sleep(TOKEN_SECONDS)
        return logits(states)

    agent.head.logits = slowly  # type: ignore[method-assign]
    return agent


def run(folder: Path, latency: float, at_once: int, *, ahead: bool) -> float:
    """Seconds of a step behind the first one."""

    def rule(seen: Seen) -> None:
        if is_call(seen):
            time.sleep(latency)

    with serve_words(faults=rule) as server:
        api = {"cache": False, "ask_ahead": ahead, "concurrency": at_once, "timeout_seconds": 60}
        config = make_config(
            {
                "steps": STEPS,
                "agent": {"max_prompt_tokens": LONGEST, "num_demonstrations": 2},
                "reward": {"examples_per_step": EXAMPLES},
                "ppo": {"prompts_per_step": PROMPTS},
                "anchor": {"kind": "fixed"},
                "guards": {"max_surprise": None, "require_instruction": False},
                "selection": {"num_finalists": 2, "rounds": 1},
                "method": "ppo-fixed",
                "target": target_at(server, **api),
            }
        )
        with patch.object(speakers, "load_agent", lambda *_: slow_agent()):
            build.start_run(make_task(size=80), config, folder, Silence())
    lines = (folder / "steps.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines[1:]]
    return float(statistics.median(seconds))


def row(latency: float, at_once: int, scratch: Path) -> str:
    """A line of the table."""
    folders = {ahead: scratch / f"{latency}-{at_once}-{ahead}" for ahead in (False, True)}
    seconds = {ahead: run(folders[ahead], latency, at_once, ahead=ahead) for ahead in folders}
    equal = all(
        (folders[False] / name).read_bytes() == (folders[True] / name).read_bytes()
        for name in FILES
    )
    gain = 1 - seconds[True] / seconds[False]
    shown = f"{latency * 1000:.0f} ms" if latency < 1 else f"{latency:.0f} s"
    return (
        f"| {shown} | {at_once} | {seconds[False]:.1f} | {seconds[True]:.1f} | {gain:.0%} | "
        f"{'yes' if equal else 'NO'} |\n"
    )


def main() -> None:
    """Print the table, or write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ[KEY_VARIABLE] = KEY
    found = INTRODUCTION.format(
        cores=os.cpu_count(), pause=TOKEN_SECONDS * 1000, writing=LONGEST * TOKEN_SECONDS
    )
    with tempfile.TemporaryDirectory() as scratch:
        for latency, at_once in CASES:
            found += row(latency, at_once, Path(scratch))
            print(found.splitlines()[-1], flush=True)
    found += CLOSING.format(files="`, `".join(FILES))
    if given.out is not None:
        given.out.write_text(found)


if __name__ == "__main__":
    main()
