"""A target function that ends its process: the second one, once a step is written down."""

import os
import signal
from pathlib import Path


def answer(messages: list[dict[str, str]]) -> str:
    """The colour by the length of what it reads, whoever asks."""
    steps = Path(os.environ.get("DIES_AFTER", "nowhere"))
    if os.environ.get("RANK") == "1" and steps.is_file() and steps.stat().st_size:
        os.kill(os.getpid(), signal.SIGKILL)
    return "red" if len(messages[-1]["content"]) % 2 else "green"
