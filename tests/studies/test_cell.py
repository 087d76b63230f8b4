"""What a comparison keeps of one run."""

import pytest

from stableprompt.studies.cell import _whole


def test_an_example_without_an_answer_stands_at_the_mean_of_the_others() -> None:
    row = {"prompt": "p", "values": [1.0, 0.0, 1.0, 1.0], "left_out": [1, 5]}
    assert _whole(row) == (1.0, 0.75, 0.0, 1.0, 1.0, 0.75)
    assert sum(_whole(row)) / 6 == pytest.approx(0.75)


def test_complete_runs_and_those_of_earlier_versions_stay_as_they_are() -> None:
    assert _whole({"values": [1, 0], "left_out": []}) == (1.0, 0.0)
    assert _whole({"values": [1, 0]}) == (1.0, 0.0)
