"""What the agent reads before it writes a prompt.

* "improve": the examples, the allowed outputs and the current prompt, with the
  request for a better one. Our default: it starts from what the user has.
* "paper": the words of Fig. 6 of Kwon et al. (2024), who show the examples only
  and let the agent guess the instruction behind them. The paper shows five
  examples and spells the number; here it is the number of examples given.

Where a prompt is written for one input, both show it too, behind everything that
is the same for all inputs: that is read once for many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stableprompt.errors import ConfigError
from stableprompt.tasks.placeholders import placeholders
from stableprompt.tasks.templates import Message

MetaPromptStyle = Literal["improve", "paper"]

# A meta-prompt is read again for every prompt that is written: each token costs time.
_IMPROVE = """\
Examples of a task:

{pairs}

{allowed}Current instruction: {seed_prompt}

Write a better instruction for this task.{keep} Reply with the instruction only."""

_IMPROVE_FOR_INPUT = """\
Examples of a task:

{pairs}

{allowed}Current instruction: {seed_prompt}

Write a better instruction for the next input of this task.{keep} Do not answer it. Reply with the \
instruction only.

Next input: {current}"""

# Fig. 6 of the paper, right column.
_PAPER_FOR_INPUT = """\
Look at the instruction and current input, rewrite instruction for current input. Here are the \
input-output pairs:

{pairs}

Instruction : {seed_prompt}

Current Input Here : {current}

The Rewritten instruction was :"""

_PAPER = """\
I gave a friend an instruction and {n} inputs. The friend read the instruction and wrote an \
output for every one of the inputs. Here are the input-output pairs:

{pairs}

The instruction was :"""


@dataclass(frozen=True, slots=True)
class MetaPrompt:
    """One of the two built-in meta-prompts.

    Attributes:
        style: "improve" or "paper", see the module.
        max_example_chars: Longer example texts and answers are cut to this length, the
            ellipsis included.
    """

    style: MetaPromptStyle = "improve"
    max_example_chars: int = 300

    def __post_init__(self) -> None:
        choices = get_args(MetaPromptStyle)
        if self.style not in choices:
            raise ConfigError(
                f"meta-prompt style must be one of {', '.join(choices)}, found {self.style!r}"
            )
        if self.max_example_chars < 1:
            raise ConfigError(
                f"max_example_chars must be at least 1, found {self.max_example_chars}"
            )

    def messages(
        self,
        seed_prompt: str,
        outputs: Sequence[str],
        pairs: Sequence[tuple[str, str]],
        *,
        current: str | None = None,
    ) -> list[Message]:
        """The chat messages that the agent reads: one user message.

        Args:
            seed_prompt: The current instruction; the style "paper" shows it only beside an input.
                Placeholders in it are named as what the new one must keep.
            outputs: The allowed outputs, or none where the answer is free; not shown in the
                style "paper".
            pairs: Input and right answer of each example, shown in this order.
            current: The input that a prompt is wanted for; None: one for all inputs.

        Raises:
            ConfigError: there are no examples to show.
        """
        if not pairs:
            raise ConfigError("a meta-prompt needs at least one example to show, found none")
        kept = sorted(f"{{{name}}}" for name in placeholders(seed_prompt))
        paper = self.style == "paper"
        layout = "Input : {text}\nOutput : {label}" if paper else "Input: {text}\nOutput: {label}"
        words = {
            "n": str(len(pairs)),
            "pairs": self._pairs(pairs, layout),
            "allowed": f"Allowed outputs: {', '.join(outputs)}\n" if outputs else "",
            "seed_prompt": seed_prompt,
            "keep": f" Keep {', '.join(kept)} in it." if kept else "",
            "current": "" if current is None else self._shortened(current),
        }
        for_all = _PAPER if paper else _IMPROVE
        for_one = _PAPER_FOR_INPUT if paper else _IMPROVE_FOR_INPUT
        content = (for_all if current is None else for_one).format(**words)
        return [{"role": "user", "content": content}]

    def _pairs(self, pairs: Sequence[tuple[str, str]], layout: str) -> str:
        # str.format reads braces in the layout only, never in the values: they stay as they are.
        return "\n\n".join(
            layout.format(text=self._shortened(text), label=self._shortened(answer))
            for text, answer in pairs
        )

    def _shortened(self, text: str) -> str:
        # On one line: blank lines inside a text would look like the end of a pair.
        line = " ".join(text.split())
        if len(line) <= self.max_example_chars:
            return line
        return line[: self.max_example_chars - 1].rstrip() + "…"
