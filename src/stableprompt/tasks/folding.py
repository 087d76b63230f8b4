"""When two texts count as the same: equal but for case and white space."""


def fold(text: str) -> str:
    """The text casefolded, every run of white space as one space, none at the ends."""
    return " ".join(text.split()).casefold()
