from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stableprompt.scoring.answers import extract_answer


@pytest.mark.parametrize(
    ("written", "lines", "after", "answer"),
    [
        ("  Paris \n", "all", None, "Paris"),
        ("a\n\nb", "all", None, "a\n\nb"),
        ("\n\na\n\nb\n", "first", None, "a"),
        ("a\n\n b \n\n", "last", None, "b"),
        ("Let me see.\nAnswer: 7", "all", "Answer:", "7"),
        ("Answer: 6. No. Answer: 7\nDone.", "all", "Answer:", "7\nDone."),  # the last one
        ("Answer: 6. No. Answer: 7\nDone.", "first", "Answer:", "7"),
        ("7", "all", "Answer:", ""),  # it did not say which part is the answer
        ("<think>6? Answer: 6</think>\n\n7", "all", None, "7"),
        ("<think>6? Answer: 6</think>7", "all", "Answer:", ""),
        ("<think>hm, 7", "all", None, ""),  # cut before it came to an answer
        ("<thinking>a</thinking> b <think>c</think>", "all", None, ""),
        ("so it is 6 </think>\n\n7", "all", None, "7"),  # a template wrote the beginning itself
        ("<Think>6</THINK>7", "all", None, "7"),
        ("", "first", None, ""),
        ("\n \n", "last", None, ""),
    ],
)
def test_what_counts(written: str, lines: Any, after: str | None, answer: str) -> None:
    assert extract_answer(written, lines=lines, after=after) == answer


@given(st.text(), st.sampled_from(["all", "first", "last"]), st.none() | st.text(min_size=1))
def test_an_answer_is_part_of_what_was_written(written: str, lines: Any, after: str | None) -> None:
    answer = extract_answer(written, lines=lines, after=after)
    assert answer == answer.strip()
    if "think" not in written.casefold():
        assert answer in written
