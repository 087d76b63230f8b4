"""From what the target wrote to the answer that is scored."""

from typing import Literal

from stableprompt.tasks.spoken_labels import without_thinking


def extract_answer(
    written: str, *, lines: Literal["all", "first", "last"], after: str | None
) -> str:
    """The part of a generated text that counts; "" where there is none.

    Only what the target wrote is ever read here, not its prompt. A block of thinking is left out,
    and one that was cut before its end leaves nothing.

    Args:
        written: The new text alone.
        lines: Which of its lines count, empty ones aside.
        after: Only what stands behind the last of these counts; None: everything.
    """
    answer = without_thinking(written)
    if after is not None:
        _, found, behind = answer.rpartition(after)
        answer = behind if found else ""
    filled = [line.strip() for line in answer.splitlines() if line.strip()]
    if lines == "all" or not filled:
        return answer.strip()
    return filled[0] if lines == "first" else filled[-1]
