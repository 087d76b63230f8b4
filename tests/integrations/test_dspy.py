"""The instruction of a DSPy program, tuned; the program itself is what is scored."""

import threading
from pathlib import Path
from typing import Any

import pytest

from stableprompt.errors import ConfigError
from tests.fakes.word_agent import LABELS, LIKED
from tests.tuning.conftest import TINY

dspy = pytest.importorskip("dspy", reason="dspy is not installed: the extra dspy")

pytestmark = [
    pytest.mark.usefixtures("elsewhere"),
    pytest.mark.filterwarnings("default"),  # those of dspy are its own affair
]

SETTINGS: dict[str, Any] = {**TINY, "method": "best-of-n", "steps": 3}


class Engine:
    """Names the colour where the instruction has a word that it likes; else "none"."""

    def __init__(self) -> None:
        self.systems: list[str] = []
        self.threads: set[int] = set()

    def complete(self, request: Any) -> Any:
        from dspy import lm15

        self.systems.append(request.system)
        self.threads.add(threading.get_ident())
        text = request.messages[-1].text
        colour = next(label for label in LABELS if label in text)
        said = colour if any(word in request.system.split() for word in LIKED) else "none"
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant(f"[[ ## colour ## ]]\n{said}\n\n[[ ## completed ## ]]"),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )


def examples(count: int = 60, *, start: int = 0) -> list[Any]:
    return [
        dspy.Example(
            thing=f"{LABELS[n % 2]} thing {n}", place="here", colour=LABELS[n % 2]
        ).with_inputs("thing", "place")
        for n in range(start, start + count)
    ]


def right(example: Any, prediction: Any, trace: Any = None) -> float:
    return float(prediction.colour == example.colour)


def student(instruction: str = "sort one text") -> Any:
    return dspy.Predict(dspy.Signature("thing, place -> colour", instruction))


def optimizer(folder: Path, metric: Any = right, **settings: Any) -> Any:
    from stableprompt.integrations.dspy import StablePrompt

    return StablePrompt(metric, run_dir=folder, **{**SETTINGS, **settings})


def test_a_better_instruction_is_found_and_the_student_is_left_alone(tmp_path: Path) -> None:
    engine, before = Engine(), student()
    made = optimizer(tmp_path / "run")
    with dspy.context(lm=dspy.LM("fake", engine=engine, cache=False, num_retries=0)):
        compiled = made.compile(before, trainset=examples())
        assert compiled(thing="red thing", place="x").colour == "red"
        assert before(thing="red thing", place="x").colour == "none"
    assert before.signature.instructions == "sort one text"
    assert compiled.signature.instructions == made.result.prompt
    assert set(made.result.prompt.split()) & set(LIKED)
    assert made.result.test.score == 1.0
    assert made.result.seed_test.score == 0.0
    # What was asked is what the compiled program asks: an instruction in DSPy's own frame.
    assert engine.systems[-2] in engine.systems[:-2]


def test_a_validation_set_chooses_and_gives_the_figure(tmp_path: Path) -> None:
    made = optimizer(tmp_path / "run", method="seed", num_threads=2)
    engine = Engine()
    with dspy.context(lm=dspy.LM("fake", engine=engine, cache=False, num_retries=0)):
        made.compile(student(), trainset=examples(20), valset=examples(24, start=20))
    assert made.result.setting["examples"] == {"train": 20, "validation": 12, "test": 12}
    assert threading.get_ident() not in engine.threads


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    class Two(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = student(), student()

    made = optimizer(tmp_path / "run")
    with pytest.raises(ConfigError, match="has 2 predictors"):
        made.compile(Two(), trainset=examples())
    with pytest.raises(ConfigError, match=r"holds \{input\}"):
        made.compile(student("Take {input}."), trainset=examples())
    with pytest.raises(ConfigError, match="knows no size"):
        made.compile(student(), trainset=examples(), size=3)


def test_a_metric_beyond_0_to_1_is_an_error(tmp_path: Path) -> None:
    made = optimizer(tmp_path / "run", metric=lambda example, prediction: 3, method="seed")
    with (
        dspy.context(lm=dspy.LM("fake", engine=Engine(), cache=False, num_retries=0)),
        pytest.raises(ConfigError, match=r"from 0 \(wrong\) to 1"),
    ):
        made.compile(student(), trainset=examples())
