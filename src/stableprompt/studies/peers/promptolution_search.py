"""CAPO (Zehle et al. 2025), by the package ``promptolution``: evolution with racing and examples.

Prompts race on blocks of the validation split; their few-shot examples are training examples. What
leads after a step is scored on the whole validation split.

Changed from the defaults of ``promptolution.optimizers.CAPO``:

* ``initial_prompts``: the seed prompt and 9 variations of it by the package's
  ``create_prompt_variation``. By default as many are written from a task description, as one JSON
  list; where that fails, as it does with a small agent, they are about ``<final_answer>`` tags.
* ``df_few_shots``: the training examples, where the default takes a tenth of those to race on.
* ``upper_shots``: 5 as by default, but no more than there are training examples.
* ``create_fs_reasoning``: off. Our target answers by the likelihood of the labels and reasons
  nothing, so that it would only spend calls.
* ``n_subsamples`` (of the task): at most the size of the validation split; else nothing races.
* ``n_steps``: until the calls are spent, or none was made for 10 steps.
* the ``Input:`` behind the examples is left out: our template opens the input itself.
* the global generators of ``random`` and ``numpy``, which it draws from: the problem's seed, and as
  they were afterwards.
"""

import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from stableprompt.studies.peers.problem import (
    Failure,
    Problem,
    Standstill,
    require,
    within_budget,
)
from stableprompt.tasks.example import Example

POPULATION = 10
"""As many as the package writes by default."""
IDLE_STEPS = 10
_OPENING = "\n\nInput:"


def optimise(problem: Problem) -> str:
    """Search until the calls are spent; the best prompt on the validation split."""
    require("promptolution")
    seed_prompt = problem.task.seed_prompt
    with _seeded(problem.seed), within_budget():
        problem.score(seed_prompt, problem.task.validation)
        llm, predictor, task = _parts(problem)
        vary = require("promptolution.utils.prompt_creation").create_prompt_variation
        search = _search_type()(
            predictor=predictor,
            task=task,
            meta_llm=llm,
            initial_prompts=[seed_prompt, *vary([seed_prompt] * (POPULATION - 1), llm)],
            df_few_shots=_table(problem, problem.demonstrable),
            upper_shots=min(5, len(problem.demonstrable)),
            create_fs_reasoning=False,
            callbacks=[_Leader(problem)],
        )
        search.optimize(n_steps=problem.calls_left)
    return problem.best


def _sent(prompt: str) -> str:
    return prompt.removesuffix(_OPENING)


class _Leader:
    """Scores what leads, and ends the search."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._is_over = Standstill(problem, IDLE_STEPS)

    def on_step_end(self, optimizer: Any) -> bool:
        leader = _sent(optimizer.prompts[0].construct_prompt())
        self._problem.score(leader, self._problem.task.validation)
        return not self._is_over()

    def on_train_end(self, optimizer: Any) -> bool:
        return True


def _search_type() -> Any:
    capo: Any = require("promptolution.optimizers.capo").CAPO

    class Search(capo):  # type: ignore[misc]
        """CAPO, but that an error of its own is not swallowed."""

        def _step(self) -> Any:
            try:
                return super()._step()
            except Exception as error:
                raise Failure(error) from error

    return Search


def _parts(problem: Problem) -> tuple[Any, Any, Any]:
    """The agent, the target and the data as promptolution sees them."""
    llm_type: Any = require("promptolution.llms.base_llm").BaseLLM
    predictor_type: Any = require("promptolution.predictors.base_predictor").BasePredictor
    task_type: Any = require("promptolution.tasks.base_task").BaseTask
    examples = {example.text: example for example in problem.task.validation}

    class Agent(llm_type):  # type: ignore[misc]
        def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
            return [problem.write(prompt) for prompt in prompts]

    class Target(predictor_type):  # type: ignore[misc]
        """Predicts what each pair is worth: our metric has judged it already."""

        def predict(
            self, prompts: list[str], xs: list[str], system_prompts: object = None
        ) -> tuple[list[float], list[str]]:
            pairs = list(zip(prompts, xs, strict=True))
            rows = {}
            for prompt in dict.fromkeys(prompts):
                own = [examples[x] for other, x in pairs if other == prompt]
                scored = problem.score(_sent(prompt), own)
                rows[prompt] = iter(zip(scored.values, scored.predictions, strict=True))
            found = [(x, *next(rows[prompt])) for prompt, x in pairs]
            return [value for _, value, _ in found], [f"{x}\n{answer}" for x, _, answer in found]

        def _extract_preds(self, preds: list[str]) -> list[str]:
            return preds

    class Data(task_type):  # type: ignore[misc]
        def _evaluate(self, xs: list[str], ys: list[str], preds: list[float]) -> Any:
            return np.asarray(preds)

    llm = Agent()
    table = _table(problem, problem.task.validation)
    data = Data(
        table,
        "x",
        "y",
        task_description=problem.task.seed_prompt,
        n_subsamples=min(30, len(table)),
        eval_strategy="sequential_block",
        seed=problem.seed,
    )
    return llm, Target(llm), data


def _table(problem: Problem, examples: Sequence[Example]) -> Any:
    rows = [(example.text, problem.task.shown_answer(example)) for example in examples]
    return require("pandas").DataFrame(rows, columns=["x", "y"])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators and silences the package; both only in here."""
    logger = logging.getLogger("promptolution")
    states, level = (random.getstate(), np.random.get_state()), logger.level
    logger.setLevel(logging.CRITICAL)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tests of equal scores, means of nothing
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logger.setLevel(level)
