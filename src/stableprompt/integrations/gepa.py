"""GEPA on a task and a target of ours: its optimizer, our scoring.

GEPA's interface lets a package bring data, target and scoring (an adapter), or propose texts; it
has no place for another loop, so ``tune`` cannot be an engine of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from stableprompt.config import make_config
from stableprompt.errors import ConfigError
from stableprompt.models.targets.function import TargetFunction
from stableprompt.parts import make_scorer
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import Scorer
from stableprompt.speakers import load_target, named_target
from stableprompt.studies.peers.gepa_search import PROMPT, Adapter
from stableprompt.studies.peers.problem import Scored
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task

try:
    import gepa
except ModuleNotFoundError as error:
    raise ConfigError(
        f"the package {error.name!r} is not installed, and is needed for an adapter of GEPA; "
        'install the extra: pip install "stableprompt[gepa]"'
    ) from error


class TargetAdapter(Adapter):
    """What ``gepa.optimize`` takes as ``adapter``: prompts are scored on the target as by ``tune``.

    Data are the task's examples: ``trainset=list(task.train), valset=list(task.validation)``. Close
    it, or use it in a ``with``.

    Args:
        task: What is tuned for.
        target: Who follows the prompt, as for ``tune``.
        **settings: Fields of ``TuneConfig``; those of target, judge and device matter.
    """

    def __init__(
        self,
        task: Task,
        *,
        target: str | TargetFunction | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        named, function = named_target(target)
        config = make_config(settings, {"target": named})
        self._answering = load_target(config, function=function)
        scorer = make_scorer(task, config, self._answering)
        super().__init__(_Scoring(task, scorer), gepa.EvaluationBatch)
        self._scorer = scorer
        self.seed_candidate = {PROMPT: task.seed_prompt}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the target."""
        self._scorer.close()
        self._answering.close()


class _Scoring:
    """Scores, with 0 where the target gave no answer: GEPA wants a figure for each example."""

    def __init__(self, task: Task, scorer: Scorer) -> None:
        self.task = task
        self._scorer = scorer

    def score(self, prompt: str, examples: Sequence[Example]) -> Scored:
        score = self._scorer.score(prompt, examples, Purpose.VALIDATION)
        asked = [n for n in range(len(examples)) if n not in score.left_out]
        values, said = [0.0] * len(examples), [""] * len(examples)
        for n, value, prediction in zip(asked, score.values, score.predictions, strict=True):
            values[n] = value
            if prediction:
                said[n] = self.task.shown_answer(replace(examples[n], label=prediction))
        return Scored(tuple(values), tuple(said), score.score)
