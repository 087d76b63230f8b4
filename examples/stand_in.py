"""Stands for an LLM in these examples: it knows words of each team, and answers to a question."""

WORDS = {
    "account": ("password", "log in", "login", "account", "email", "profile"),
    "payment": ("charged", "refund", "invoice", "card", "paid", "payment", "bill"),
    "delivery": ("parcel", "package", "deliver", "arrive", "shipping", "courier", "order"),
    "technical": ("crash", "error", "app", "screen", "bug", "update", "freez"),
}


def answer(messages: list[dict[str, str]]) -> str:
    """A team; always the same one where the prompt neither asks a question nor names a team."""
    prompt, text = messages[0]["content"].lower(), messages[-1]["content"].lower()
    if "?" not in prompt and not any(team in prompt for team in WORDS):
        return "account"
    found = {team: sum(word in text for word in words) for team, words in WORDS.items()}
    return max(found, key=lambda team: found[team])
