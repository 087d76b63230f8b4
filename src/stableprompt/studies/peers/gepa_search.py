"""GEPA (Agrawal et al. 2025), by the package ``gepa``: reflective mutation on a Pareto front.

The candidate is our prompt; training examples are reflected on, validation examples score. The
record of an example is worded as by the package's own adapter.

Changed from the defaults of ``gepa.optimize``:

* ``seed``: the problem's.
* ``stop_callbacks`` in place of ``max_metric_calls``: we count the calls that were really made; the
  package would count a pair again that is asked again. It also ends after as many rounds without
  a new call as there are training examples.
* ``logger``: says nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from stableprompt.studies.peers.problem import Problem, Scored, Standstill, require, within_budget
from stableprompt.tasks.example import Example
from stableprompt.tasks.task import Task

PROMPT = "prompt"
"""The one text of a candidate."""


def optimise(problem: Problem) -> str:
    """Search until the calls are spent; the best prompt on the validation split."""
    gepa = require("gepa")
    with within_budget():
        gepa.optimize(
            {PROMPT: problem.task.seed_prompt},
            trainset=list(problem.task.train),
            valset=list(problem.task.validation),
            adapter=Adapter(problem, gepa.EvaluationBatch),
            reflection_lm=problem.write,
            stop_callbacks=Standstill(problem, rounds=len(problem.task.train)),
            logger=_Silent(),
            seed=problem.seed,
        )
    return problem.best


class _Silent:
    def log(self, message: str) -> None:
        pass


class Scoring(Protocol):
    """A task, and prompts scored on its examples."""

    task: Task

    def score(self, prompt: str, examples: Sequence[Example]) -> Scored:
        """What each example is worth, in their order."""
        ...


class Adapter:
    """How GEPA asks our target."""

    propose_new_texts = None  # GEPA's own reflection writes

    def __init__(self, problem: Scoring, batch_type: Any) -> None:
        self._problem = problem
        self._batch_type = batch_type

    def evaluate(
        self, batch: Sequence[Example], candidate: dict[str, str], capture_traces: bool = False
    ) -> Any:
        """What a candidate is worth on examples."""
        scored = self._problem.score(candidate[PROMPT], batch)
        traces = list(zip(batch, scored.predictions, scored.values, strict=True))
        return self._batch_type(
            outputs=list(scored.predictions),
            scores=list(scored.values),
            trajectories=traces if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> dict[str, list[dict[str, str]]]:
        """What the candidate is reflected on."""
        return {PROMPT: [self._record(*trace) for trace in eval_batch.trajectories]}

    def _record(self, example: Example, prediction: str, value: float) -> dict[str, str]:
        answer = self._problem.task.shown_answer(example)
        right = (
            f"The generated response is correct. The response include the correct answer '{answer}'"
        )
        wrong = (
            f"The generated response is incorrect. The correct answer is '{answer}'. Ensure that "
            "the correct answer is included in the response exactly as it is."
        )
        feedback = right if value == 1.0 else wrong
        return {
            "Inputs": example.text,
            "Generated Outputs": prediction,
            "Feedback": feedback,
        }
