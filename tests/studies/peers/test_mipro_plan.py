"""How the budget becomes the settings of MIPROv2; needs no package."""

import pytest

from stableprompt.studies.peers.mipro_search import plan

# Recommended trials: max(4 log2 N, 1.5 N): 10.34 for 6, 18 for 12, 27 for 18 candidates.
# 18 validation examples, no minibatches: 18 + 4 N + 18 * trials: 390 for 12, 576 for 18.
# 72 examples, in minibatches: a trial costs 35 + 72 / 5 = 49.4: 1009.2 for 12, 1477.8 for 18.


@pytest.mark.parametrize(
    ("calls", "validation", "candidates", "trials"),
    [
        (10, 18, 6, 1),
        (389, 18, 6, 21),
        (390, 18, 12, 21),
        (575, 18, 12, 31),
        (576, 18, 18, 32),
        (1009, 72, 6, 28),
        (1010, 72, 12, 28),
        (1477, 72, 12, 42),
        (1478, 72, 18, 42),
        (576, 50, 6, 11),
        (576, 51, 6, 16),
    ],
)
def test_the_most_candidates_that_the_budget_pays_for(
    calls: int, validation: int, candidates: int, trials: int
) -> None:
    assert plan(calls, validation) == (candidates, trials)
