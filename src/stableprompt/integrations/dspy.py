"""An optimizer of DSPy: ``tune`` finds the instruction of a program with one predictor.

The program itself is the target: it answers as it will later, with DSPy's adapter and LM around it,
and DSPy's metric says what the answer is worth.
"""

import contextvars
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example
from stableprompt.tasks.placeholders import WHOLE_INPUT, placeholders
from stableprompt.tasks.task import Task

if TYPE_CHECKING:
    from stableprompt.tuning.records import Observer, TuneResult

try:
    from dspy.teleprompt import Teleprompter
except ModuleNotFoundError as error:
    raise ConfigError(
        f"the package {error.name!r} is not installed, and is needed for an optimizer of DSPy; "
        'install the extra: pip install "stableprompt[dspy]"'
    ) from error

_INPUT = "input"


class StablePrompt(Teleprompter):  # type: ignore[misc]
    """Tunes the instruction of a one-predictor program.

    Args:
        metric: What a prediction is worth, 0 to 1: ``metric(example, prediction)``.
        agent: Who writes instructions, as for ``tune``.
        run_dir: A new folder for the run; None makes one under ``runs/``.
        num_threads: Calls of the program at once.
        observer: Told how it goes.
        **settings: Other fields of ``TuneConfig``, such as ``seed`` and ``steps``.

    Attributes:
        result: What ``tune`` gave at the last ``compile``, with the figures on examples that no
            choice has seen.
    """

    result: "TuneResult"

    def __init__(
        self,
        metric: Callable[..., float],
        *,
        agent: str | Mapping[str, Any] | None = None,
        run_dir: str | Path | None = None,
        num_threads: int = 1,
        observer: "Observer | None" = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self._metric, self._agent, self._run_dir = metric, agent, run_dir
        self._num_threads, self._observer, self._settings = num_threads, observer, settings

    def compile(
        self,
        student: Any,
        *,
        trainset: Sequence[Any],
        valset: Sequence[Any] | None = None,
        teacher: Any = None,
        **options: Any,
    ) -> Any:
        """The program with the best instruction that was found.

        Args:
            student: Has one predictor; its instruction is the prompt to beat.
            trainset: Examples, with their inputs named (``with_inputs``).
            valset: Chooses the instruction and gives the final figure, one half each; without it
                ``trainset`` is cut into train, validation and test.
            teacher: Not used.
            **options: None is known.

        Raises:
            ConfigError: the program has not one predictor, or its instruction holds ``{text}`` or
                ``{input}``.
            DataError: there are too few examples.
        """
        if options:
            raise ConfigError(f"compile knows no {', '.join(sorted(options))}; leave it out")
        from stableprompt.build import tune  # loads torch

        program = _Program(student, self._metric)
        task = _task(program, trainset, valset)
        target = {
            "model": program.answer,
            "position": "system",
            "input_format": f"{{{WHOLE_INPUT}}}",
            "api": {"concurrency": self._num_threads},
        }
        self.result = tune(
            task,
            agent=self._agent,
            target=target,
            run_dir=self._run_dir,
            observer=self._observer,
            **self._settings,
        )
        return program.with_instruction(self.result.prompt)


def metric_of_the_program(example: Example, prediction: str) -> float:
    """What the target answered is what DSPy's metric gave."""
    return float(prediction)


class _Program:
    """The student with other instructions, asked by the text of an example."""

    def __init__(self, student: Any, metric: Callable[..., float]) -> None:
        predictors = student.predictors()
        if len(predictors) != 1:
            raise ConfigError(
                f"the program has {len(predictors)} predictors, and one is tuned; give a program "
                "with one"
            )
        self.instruction = str(predictors[0].signature.instructions)
        if found := placeholders(self.instruction) & {WHOLE_INPUT, _INPUT}:
            raise ConfigError(
                f"the instruction holds {{{min(found)}}}, where the input would be put; write it "
                "without braces"
            )
        self._student, self._metric = student, metric
        self._rows: dict[str, Any] = {}
        self._made: dict[str, Any] = {}
        self._context = contextvars.copy_context()  # what dspy.context() set is not in new threads

    def row(self, example: Any) -> dict[str, str]:
        """An example as the agent reads it."""
        text = _shown(example.inputs())
        self._rows.setdefault(text, example)
        answers = example.labels()
        # Without labels the metric alone knows what is right.
        return {_INPUT: text, "label": _shown(answers) if len(answers) else "(none is given)"}

    def with_instruction(self, instruction: str) -> Any:
        """A copy of the student that follows it."""
        made = self._student.deepcopy()
        [predictor] = made.predictors()
        predictor.signature = predictor.signature.with_instructions(instruction)
        return made

    def answer(self, messages: list[dict[str, str]]) -> str:
        """What the metric gives for the answer under an instruction, as a text."""
        system, user = (message["content"] for message in messages)
        example = self._rows[user]
        made = self._made.setdefault(system, self.with_instruction(system))
        prediction = self._context.copy().run(made, **example.inputs())
        return repr(float(self._metric(example, prediction)))


def _shown(fields: Any) -> str:
    """Fields one a line, under their names where there are several."""
    items = [(name, str(value).strip()) for name, value in fields.items()]
    if len(items) == 1:
        return items[0][1]
    return "\n".join(f"{name}: {value}" for name, value in items)


def _task(program: _Program, trainset: Sequence[Any], valset: Sequence[Any] | None) -> Task:
    rows = [program.row(example) for example in trainset]
    if valset is not None:
        rows = [{**row, "split": "train"} for row in rows]
        rows += [
            {**program.row(example), "split": ("validation", "test")[number % 2]}
            for number, example in enumerate(valset)
        ]
    return Task.from_records(
        rows,
        name="dspy",
        kind="generation",
        text=_INPUT,
        label="label",
        metric=metric_of_the_program,
        seed_prompt=program.instruction,
    )
