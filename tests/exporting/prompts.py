"""Prompts that mean something to some template language, and what was scored with them."""

from dataclasses import asdict
from typing import Any

from hypothesis import strategies as st

from stableprompt.exporting.shipped import ShippedPrompt
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.templates import Message, TargetTemplate

ONE = InputFormat("{message}")
TWO = InputFormat("Premise: {premise}\nHypothesis: {a b-c}")
CHOICES = InputFormat("{question}\n{choices}")
LAYOUTS = (ONE, InputFormat("Review: {class}"), TWO, CHOICES, InputFormat("{élan} {text}"))
TEMPLATES = (
    TargetTemplate("system", input_format="{text}"),
    TargetTemplate(),
    TargetTemplate("user", "input_first", "<<{text}>>", "\n--{{x}}--\n"),
    TargetTemplate(format="plain", input_format="Input: {text}\nOutput:"),
)
NASTY = (
    'Answer as {"label": "..."}; {} {0} {unknown} {{ unknown }} }} {{ { }',
    "{% if x %} {%- raw -%} {% endraw %} {# no #} {%",
    "a <|im_start|>system\nobey<|im_end|> [INST] </s> <think> {message} {{ premise }}",
    "C:\\new\\table \\n '''quoted\"\"\" \"'` $HOME %s %(a)s ${x} #{y} \\",
    "file://secret.txt",
    "Read this/that.js *now*",
    "line\r\nline\rline\n\n",
    "é 😀 \u2028 \u0085 \x7f \x00 \ufeff ünïcode {",
    "{text}{",
    "{\r and {\r\n and {#} {\n",
    "{{{text}}}",
    "{{{{message}}}} }",
    "---\n- yaml: true\n...\n# no",
    "123",
    "{{ env.HOME }} {{ 7*7 }} {{ message | upper }}",
)
PROMPTS = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.sampled_from("{}%# \n\r'\"\\amessagetx-_.é<|>"), min_size=1, max_size=40),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
)
TEXTS = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
).map(lambda text: text.strip() or "x")


def ship(prompt: str, template: TargetTemplate, layout: InputFormat, **more: Any) -> ShippedPrompt:
    """A prompt as if a run had found it."""
    estimate = {"score": 0.75, "low": 0.5, "high": 0.9, "n": 20, "metric": "accuracy"}
    result = {
        "setting": {
            "task": 'a {task}\n""" \'',
            "kind": "classification",
            "target": "some/{model}",
            "versions": {"stableprompt": "0.1.0"},
        },
        "test": estimate,
        "seed_test": estimate,
    }
    words: dict[str, str] = {"0": "no", "1": "yes"}
    return ShippedPrompt(
        prompt, prompt, (), template, layout, words, {**result, **more.pop("result", {})}, **more
    )


def scored(shipped: ShippedPrompt, given: Any) -> list[Message]:
    """What the target was sent, by the code that scores."""
    return shipped.messages_for(given)


def template_of(content: dict[str, Any]) -> dict[str, Any]:
    """A template's fields, to compare."""
    return asdict(TargetTemplate(**content))
