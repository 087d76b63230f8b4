"""What a result amounts to, in one sentence that does not oversell; the same words everywhere."""


def verdict_of(*, seed_chosen: bool, improved: bool, p_value: float) -> str:
    """The verdict of a finished run.

    Args:
        seed_chosen: The seed prompt itself was chosen.
        improved: Another one was, and did better on test.
        p_value: Of the paired comparison on test.
    """
    if seed_chosen:
        return "no improvement found: nothing that was seen is better than the seed prompt"
    if not improved:
        return "no improvement: the chosen prompt is not better than the seed prompt on test"
    if p_value < 0.05:
        return "improved: better than the seed prompt on test (p < 0.05)"
    return "not proven: better on test, but by no more than chance could give"
