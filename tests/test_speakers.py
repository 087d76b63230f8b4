from typing import Any, Never

import pytest

from stableprompt import speakers
from stableprompt.config import make_config
from stableprompt.errors import ModelError


@pytest.mark.parametrize(("model", "told"), [("openai/gpt-4o-mini", True), ("owner/m", False)])
def test_an_agent_behind_an_api_is_told_that_it_must_be_here(
    monkeypatch: pytest.MonkeyPatch, model: str, told: bool
) -> None:
    def refuse(name: str, **_options: Any) -> Never:
        raise ModelError(f"model {name!r} could not be loaded")

    monkeypatch.setattr(speakers, "load_model", refuse)
    with pytest.raises(ModelError, match=f"model '{model}' could not be loaded") as caught:
        speakers.load_agent(make_config({"agent": {"model": model}}))
    assert ("only be a target" in str(caught.value)) is told
