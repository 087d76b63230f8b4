"""Targets that Ray actors load for ``tests/test_ray.py``: real ones, that leave traces or die."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from stableprompt.errors import TargetError
from stableprompt.models.chat import Message
from stableprompt.models.loading import load_model
from stableprompt.models.targets.interface import LabelScores
from stableprompt.models.targets.local import LocalTarget

WORDS = ["red", "green"]


class Traced(LocalTarget):
    """Notes who answered; dies at some texts, for once or always, and refuses others."""

    def __init__(self, folder: Path, model: Path) -> None:
        loaded = load_model(str(model), device="cpu", dtype="float32")
        super().__init__(loaded)
        self._folder = folder
        self._note("loaded")

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """Those of the model, a little later."""
        texts = " ".join(conversation[-1]["content"] for conversation in conversations)
        if "refused" in texts:
            raise TargetError("this target refuses; resume the run")
        killed = self._folder / "killed"
        if "deadly" in texts or ("dangerous" in texts and not killed.exists()):
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self._note("answered")
        time.sleep(0.05)  # so that the other one comes in between
        return super().label_scores(conversations, words)

    def _note(self, what: str) -> None:
        with (self._folder / what).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {torch.get_num_threads()}\n")


def load_traced(folder: Path, model: Path) -> LocalTarget:
    """What an actor begins with."""
    return Traced(folder, model)


def load_different(folder: Path, model: Path) -> LocalTarget:
    """The second one that asks gets another model."""
    with (folder / "loaded").open("a", encoding="utf-8") as file:
        file.write("one\n")
        file.flush()
        first = (folder / "loaded").read_text(encoding="utf-8").count("one") == 1
    return LocalTarget(
        load_model(str(model), device="cpu", dtype="float32" if first else "bfloat16")
    )


def questions(*texts: str) -> tuple[list[list[Message]], list[list[str]]]:
    """Two prompts, many inputs, and these; the words alternate."""
    inputs = [f"a {colour} one, number {n}" for n in range(16) for colour in WORDS]
    asked: list[list[Message]] = [
        [{"role": "system", "content": prompt}, {"role": "user", "content": text}]
        for prompt in ("Say what colour it is.", "Name it")
        for text in [*inputs, *texts]
    ]
    words = [WORDS if n % 2 else [*WORDS, "blue"] for n in range(len(asked))]
    return asked, words
