"""``--set`` assignments."""

from typing import Any

import pytest

from stableprompt.cli.settings import nested, parse_assignments
from stableprompt.errors import ConfigError


def test_a_dotted_name_is_nested() -> None:
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}
    assert nested("a", [1]) == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("float32", "float32"),
        ("cuda:1", "cuda:1"),
        ("a=b", "a=b"),
        ("Input : {text} Output :", "Input : {text} Output :"),
        ("'{text}'", "{text}"),
        ("[1, 2]", [1, 2]),
        ("[1", "[1"),
        ("####", "####"),  # the mark before the answers of a well-known data set
        ("Be polite # strictly", "Be polite # strictly"),
        ("~", None),
    ],
)
def test_values_are_read_as_yaml_and_else_as_they_stand(text: str, value: Any) -> None:
    [layer] = parse_assignments([f"ppo.x={text}"])
    found = layer["ppo"]["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["2024-13-45", "{text}", "Text: {text}"])
def test_what_only_looks_like_yaml_stays_text(text: str) -> None:
    assert parse_assignments([f"target.input_format={text}"]) == [
        {"target": {"input_format": text}}
    ]


def test_each_assignment_is_a_layer_in_order() -> None:
    assert parse_assignments(["a=1", " b.c =2", "a=3"]) == [{"a": 1}, {"b": {"c": 2}}, {"a": 3}]


@pytest.mark.parametrize("text", ["steps", "=3", ""])
def test_an_assignment_without_name_or_sign_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must look like ppo\.learning_rate=0\.0001"):
        parse_assignments([text])
