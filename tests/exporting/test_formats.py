"""Each form of export gives the target what was scored, whatever the prompt holds.

The languages of the forms are checked by their own implementations where these are at hand
(Python, Jinja, format strings), and by the packages themselves in ``test_packages.py``.
"""

import json
import string
from itertools import product
from typing import Any

import jinja2
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stableprompt.exporting.formats import FORMATS, to_json, to_messages, to_text
from stableprompt.exporting.pieces import Field, pieced, variables
from stableprompt.exporting.promptfoo import MOST_TESTS, to_promptfoo
from stableprompt.exporting.python_source import to_python
from stableprompt.exporting.shipped import ShippedPrompt
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.templates import TargetTemplate
from tests.exporting.prompts import (
    CHOICES,
    LAYOUTS,
    NASTY,
    ONE,
    PROMPTS,
    TEMPLATES,
    TEXTS,
    TWO,
    scored,
    ship,
)

Inputs = dict[str, Any]


def run_source(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "export.py", "exec"), names)
    return names


@st.composite
def cases(draw: st.DrawFn) -> tuple[ShippedPrompt, Inputs]:
    layout = draw(st.sampled_from(LAYOUTS))
    shipped = ship(draw(PROMPTS), draw(st.sampled_from(TEMPLATES)), layout)
    fields = {name: draw(TEXTS) for name in variables(shipped)}
    if "choices" in fields:
        fields["choices"] = "A. red\nB. green"
    return shipped, fields


def filled(shipped: ShippedPrompt, fields: Inputs) -> list[dict[str, str]]:
    return [
        {
            "role": message.role,
            "content": "".join(
                fields[piece.name] if isinstance(piece, Field) else piece
                for piece in message.pieces
            ),
        }
        for message in pieced(shipped)
    ]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_pieces_and_python_give_what_was_scored(case: tuple[ShippedPrompt, Inputs]) -> None:
    shipped, fields = case
    expected = scored(shipped, fields)
    assert filled(shipped, fields) == expected
    messages = run_source(to_python(shipped))["messages"]
    padded = {name: f" \n{value}\t " for name, value in fields.items()}
    for values in (fields, padded):
        assert messages(next(iter(values.values())) if len(values) == 1 else values) == expected


@settings(max_examples=60, deadline=None)
@given(cases())
def test_json_holds_the_pieces(case: tuple[ShippedPrompt, Inputs]) -> None:
    shipped, fields = case
    told = json.loads(to_json(shipped))
    expected = scored(shipped, fields)
    parts = [
        "".join(fields[p["field"]] if isinstance(p, dict) else p for p in message["pieces"])
        for message in told["pieces"]
    ]
    assert parts == [message["content"] for message in expected]


def named(shipped: ShippedPrompt, fields: Inputs) -> Inputs:
    names = variables(shipped)
    return {names[field]: value for field, value in fields.items()}


@settings(max_examples=60, deadline=None)
@given(cases())
def test_braces_survive_a_format_string(case: tuple[ShippedPrompt, Inputs]) -> None:
    # LangChain's templates are format strings of Python; a stand-in for its class reads them here.
    shipped, fields = case
    source = FORMATS["langchain"](shipped).split("prompt = ")[1]
    made: list[str] = []

    class Recorder:
        @staticmethod
        def from_messages(pairs: list[tuple[str, str]]) -> None:
            made.extend(content for _, content in pairs)

        @staticmethod
        def from_template(content: str) -> None:
            made.append(content)

    exec(source, {"ChatPromptTemplate": Recorder, "PromptTemplate": Recorder})
    said = [string.Formatter().vformat(c, (), named(shipped, fields)) for c in made]
    assert said == [message["content"] for message in scored(shipped, fields)]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_markup_survives_jinja_in_mlflow(case: tuple[ShippedPrompt, Inputs]) -> None:
    shipped, fields = case
    template = run_source(FORMATS["mlflow"](shipped))["TEMPLATE"]
    contents = [template] if isinstance(template, str) else [m["content"] for m in template]
    if not any("{%" in content for content in contents):
        # MLflow's own language: one variable, and no other brace that it could take for one.
        assert len(fields) == 1
        assert all(content.count("{{") <= 1 for content in contents)
    if any("{%" in content for content in contents):  # else {# means nothing
        said = [jinja2.Template(c).render(**named(shipped, fields)) for c in contents]
        assert said == [message["content"] for message in scored(shipped, fields)]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_markup_survives_yaml_and_nunjucks_in_promptfoo(
    case: tuple[ShippedPrompt, Inputs],
) -> None:
    # What of Nunjucks the export uses, Jinja reads alike but for line ends.
    shipped, fields = case
    [prompt] = yaml.safe_load(to_promptfoo(shipped))["prompts"]
    contents = [prompt] if shipped.is_plain else [m["content"] for m in json.loads(prompt)]
    expected = [message["content"] for message in scored(shipped, fields)]
    if any("\r" in text for text in (*contents, *expected)):
        return
    said = [
        jinja2.Template(c, keep_trailing_newline=True).render(**named(shipped, fields))
        for c in contents
    ]
    assert said == expected


@pytest.mark.parametrize(
    "check",
    [
        test_pieces_and_python_give_what_was_scored,
        test_json_holds_the_pieces,
        test_braces_survive_a_format_string,
        test_markup_survives_jinja_in_mlflow,
        test_markup_survives_yaml_and_nunjucks_in_promptfoo,
    ],
)
def test_each_of_these_holds_for_the_prompts_that_are_known_to_be_nasty(check: Any) -> None:
    for prompt, template, layout in product(NASTY, TEMPLATES, LAYOUTS):
        shipped = ship(prompt, template, layout)
        names = variables(shipped)
        fields = {
            n: "A. x\nB. {y}" if n == "choices" else f"{{a}} {{{{ {n} }}}} \\1" for n in names
        }
        check.hypothesis.inner_test((shipped, fields))


def test_choices_are_laid_out_as_they_were() -> None:
    for layout in (CHOICES, InputFormat("{question}\n{choices}", "text")):
        shipped = ship("Choose.", TargetTemplate(), layout)
        given = {"question": " Which? ", "choices": ["red ", "green", "blue"]}
        messages = run_source(to_python(shipped))["messages"]
        assert messages(given) == scored(shipped, given)
        assert "green" in messages(given)[0]["content"]


def test_variables_are_names_in_every_language() -> None:
    layout = InputFormat("{class} {a b} {a-b} {a.b} {élan} {self} {model_x} {_x} {text}")
    names = variables(ship("Go.", TargetTemplate(), layout))
    assert list(names) == ["class", "a b", "a-b", "a.b", "élan", "self", "model_x", "_x", "text"]
    assert len(set(names.values())) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in names.values())
    assert names["class"] == "class_"
    assert names["a b"] == "a_b"
    assert names["text"] == "text"


def test_text_and_messages_are_those_of_the_run() -> None:
    shipped = ship("Say {text}.", TargetTemplate(), ONE)
    assert to_text(shipped) == "Say {text}.\n"
    assert to_messages(shipped) == "[]\n"


# --- promptfoo's tests ---


def rows(count: int, **fields: str) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"text": f"t{n}", "label": "1", "fields": {"message": f"t{n}", **fields}}
        for n in range(count)
    )


def test_tests_are_examples_with_their_answers() -> None:
    config = yaml.safe_load(to_promptfoo(ship("Go.", TargetTemplate(), ONE, tests=rows(30))))
    assert len(config["tests"]) == MOST_TESTS
    first = config["tests"][0]
    assert first["vars"] == {"message": "t0"}
    assert first["assert"] == [{"type": "equals", "value": "yes"}]
    assert config["providers"] == ["echo"]


def test_texts_that_promptfoo_would_read_as_something_else_are_no_tests() -> None:
    for text in ("file://etc/passwd", "package:x", "a {{ message }} b"):
        shipped = ship("Go.", TargetTemplate(), ONE, tests=rows(2, message=text))
        assert "tests" not in yaml.safe_load(to_promptfoo(shipped))
    kept = ship("Go.", TargetTemplate(), ONE, tests=rows(2, message="{{ other }} {% x"))
    assert len(yaml.safe_load(to_promptfoo(kept))["tests"]) == 2
    plain = ship("Go.", TEMPLATES[3], ONE, tests=rows(2, message="{{ other }}"))
    assert "tests" not in yaml.safe_load(to_promptfoo(plain))


def test_every_form_says_what_it_is_on_lines_of_its_own() -> None:
    for name in ("python", "langchain", "mlflow", "dspy", "promptfoo"):
        content = FORMATS[name](ship(NASTY[0], TEMPLATES[0], TWO))
        head = content.split("\n\n")[0].split("\n")
        assert head[0].startswith("# The prompt of the task"), name
        assert "0.750 [0.500, 0.900], n = 20" in content


@pytest.mark.parametrize("form", ["python", "langchain", "mlflow", "dspy"])
@pytest.mark.parametrize("prompt", NASTY)
def test_the_source_is_python(form: str, prompt: str) -> None:
    for template in TEMPLATES:
        for layout in LAYOUTS:
            compile(FORMATS[form](ship(prompt, template, layout)), form, "exec")


@pytest.mark.parametrize("form", ["python", "langchain", "mlflow", "dspy", "promptfoo"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0c", "\u2028", "\x85"])
def test_no_figure_of_a_folder_that_was_changed_becomes_code(form: str, end: str) -> None:
    hostile = f"1{end}raise SystemExit #"
    estimate = {"score": 0.75, "low": 0.5, "high": 0.9, "n": hostile, "metric": hostile}
    setting = {
        "task": hostile,
        "kind": "classification",
        "target": hostile,
        "versions": {"stableprompt": hostile},
    }
    result = {"test": estimate, "seed_test": estimate, "setting": setting}
    content = FORMATS[form](ship("Go.", TEMPLATES[0], ONE, result=result))
    assert not [line for line in content.splitlines() if line.startswith("raise")]
