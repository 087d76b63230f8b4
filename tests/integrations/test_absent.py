"""What needs a package says which, and what brings it."""

import sys
from importlib import import_module

import pytest

from stableprompt.errors import ConfigError


@pytest.mark.parametrize("name", ["dspy", "gepa"])
def test_a_package_that_is_absent_names_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"stableprompt.integrations.{name}", raising=False)
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf'pip install "stableprompt\[{name}\]"'):
        import_module(f"stableprompt.integrations.{name}")


def test_the_classifier_is_offered_without_scikit_learn() -> None:
    from tests.test_package import loaded_after

    code = (
        "import sys; sys.modules['sklearn'] = None; from stableprompt import PromptClassifier\n"
        "try: PromptClassifier().predict(['x'])\n"
        "except ValueError as error: assert 'not fitted' in str(error)\n"
        "else: raise SystemExit(1)\n"
        "del sys.modules['sklearn']"
    )
    assert loaded_after(code).isdisjoint({"sklearn", "torch", "transformers"})
