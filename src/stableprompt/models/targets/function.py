"""A target that is a function of the user's own: messages -> str."""

import asyncio
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn.utils.rnn import pad_sequence

from stableprompt.errors import ConfigError, TargetError
from stableprompt.llm_config import ApiConfig
from stableprompt.models.chat import Message
from stableprompt.models.targets.failures import Failed, MayPass
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.models.targets.traffic import Traffic
from stableprompt.tasks.spoken_labels import spoken_label, without_thinking

TargetFunction = Callable[[list[dict[str, str]]], str]
"""Takes chat messages ({"role": ..., "content": ...}), gives the answer."""

_PORTION: Final = 16  # times the concurrency: conversations between two looks at the limits


class FunctionTarget:
    """Calls a function for each conversation; what it raises is tried again, then left out.

    Args:
        function: Whatever answers: a chain, an agent, a client of some other API.
        config: Attempts, time-out; a concurrency above 1 calls it from several threads.
        name: For the record; its own by default.

    Raises:
        ConfigError: it cannot be called.
    """

    def __init__(
        self, function: TargetFunction, config: ApiConfig, *, name: str | None = None
    ) -> None:
        if not callable(function):
            raise ConfigError(
                f"the target must be a name or a function, found {type(function).__name__}"
            )
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self._function = function
        self._concurrency = config.concurrency or 1
        self.traffic = Traffic(config, self._concurrency, self.name)

    def close(self) -> None:
        """End the threads; it answers no more."""
        self.traffic.close()

    @property
    def gives_probabilities(self) -> bool:
        """It says only what it answers."""
        return False

    @property
    def at_once(self) -> int | None:
        """A few for each call under way."""
        return _PORTION * self._concurrency

    @property
    def requests(self) -> Mapping[str, int]:
        """Those sent, and what was known already."""
        return {
            "sent": self.traffic.sent,
            "retries": self.traffic.retries,
            "from_disk": 0,
        }

    @property
    def how(self) -> str:
        """By calling it."""
        return "the answers of a function, right or wrong"

    def num_tokens(self, text: str) -> int:
        """About how many tokens the text is, rather too many."""
        return len(text.encode()) // 3 + 1

    def markup(self) -> list[str]:
        """None that anybody knows of."""
        return []

    def fits(self, conversation: Sequence[Message], room: int) -> bool:
        """The function knows, and may raise."""
        return True

    def generate(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> Answers:
        """What the function returns; it cuts its answers itself, if it does."""

        async def call(number: int, _: int) -> str:
            messages = [dict(message) for message in conversations[number]]
            answer, error = await _in_thread(self._function, messages)
            if error is not None:
                raise MayPass(_told(error)) from error
            if not isinstance(answer, str):
                raise TargetError(
                    f"the target function {self.name} must return a text, found "
                    f"{type(answer).__name__}"
                )
            # Half a character, as a server's: no file could hold it.
            return answer.encode("utf-8", "replace").decode()

        found = self.traffic.run(call, len(conversations))
        texts = tuple("" if isinstance(one, Failed) else one.strip() for one in found)
        failed = {n: one.why for n, one in enumerate(found) if isinstance(one, Failed)}
        return Answers(texts, _estimated(conversations, texts), failed)

    def label_scores(
        self, conversations: Sequence[Sequence[Message]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        """1 for the word that an answer names, 0 for the others."""
        answers = self.generate(conversations, 0)
        rows = []
        for text, own in zip(answers.texts, words, strict=True):
            said = spoken_label(without_thinking(text), own)
            rows.append(torch.tensor([float(number == said) for number in range(len(own))]))
        return LabelScores(pad_sequence(rows, batch_first=True), answers.usage, answers.failed)


def _told(error: BaseException) -> str:
    """What was raised, and the line that did."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


async def _in_thread(
    function: TargetFunction, messages: list[dict[str, str]]
) -> tuple[Any, BaseException | None]:
    """What it returns, or what it raises, in a thread of its own.

    Not ``asyncio.to_thread``: there calls that hang take the place of others and keep the program
    from ending; more than a few do not run at once; and what is no error, such as a ``SystemExit``,
    ends the loop.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def settle(found: tuple[Any, BaseException | None]) -> None:
        if not done.done():  # nobody waits any more
            done.set_result(found)

    def work() -> None:
        try:
            found: tuple[Any, BaseException | None] = function(messages), None
        except BaseException as error:  # whatever the user's function raises
            found = None, error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=work, name="target function", daemon=True).start()
    return await done


def _estimated(conversations: Sequence[Sequence[Message]], texts: Sequence[str]) -> Usage:
    """Tokens by length, four characters each: a function tells none."""
    read = sum(len(m["content"]) for conversation in conversations for m in conversation)
    return Usage(read // 4, sum(map(len, texts)) // 4)
