"""MIPROv2 (Opsahl-Ong et al. 2024), by the package ``dspy``: instructions and demonstrations.

The program is one predictor, ``input -> output``. Its instruction and its demonstrations become our
prompt, which our target follows: nothing that the target says is parsed by dspy. Instructions are
proposed by the agent.

Changed from the defaults of ``dspy.MIPROv2``:

* ``seed``: the problem's.
* ``auto``: off, so that the budget decides. ``num_candidates`` is the largest of dspy's own three
  (light 6, medium 12, heavy 18) whose recommended number of trials the budget pays for, or the
  smallest; ``num_trials`` is what the budget pays for at most. It also ends after 50 evaluations
  without a new call. As with ``auto``, there are minibatches from 51 validation examples on.
* ``num_threads``: 1, so that a search can be repeated; ``max_errors``: 1.
* a proposal without dspy's field markers is taken as it is: it would end the search, and a small
  agent hardly ever writes them.
* the agent's temperature is its own; dspy's cache is off.
* training examples that spell a placeholder are left out.
"""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from stableprompt.studies.peers.problem import (
    BudgetSpent,
    Problem,
    Standstill,
    require,
    within_budget,
)
from stableprompt.tasks.example import Example
from stableprompt.tuning.demonstrations import with_demonstrations

SIZES = (6, 12, 18)
"""Candidates of dspy's settings light, medium and heavy."""
DEMONSTRATIONS, MINIBATCH, FULL_EVALUATION_STEPS, FULL_UP_TO = 4, 35, 5, 50
"""Defaults of dspy; a set of demonstrations costs as many calls as it has, or more."""
IDLE_EVALUATIONS = 50


def optimise(problem: Problem) -> str:
    """Search until the calls are spent; the best prompt on the validation split."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it would ask the network
    require("optuna")
    dspy = require("dspy")
    task = problem.task
    candidates, trials = plan(problem.calls_left, len(task.validation))
    adapter = _adapter(dspy, problem)
    lm = dspy.LM("agent", engine=_Engine(problem, require("dspy.lm15")), cache=False, num_retries=0)
    settings = {
        "lm": lm,
        "adapter": adapter,
        "callbacks": [_batches(dspy, problem, adapter)],
        "disable_history": True,
    }
    with (
        within_budget(),
        _all_evaluated(),
        dspy.context(**settings),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        optimiser = dspy.MIPROv2(
            metric=lambda example, prediction, trace=None: prediction.value,
            auto=None,
            num_candidates=candidates,
            num_threads=1,
            max_errors=1,
            seed=problem.seed,
        )
        optimiser.compile(
            dspy.Predict(dspy.Signature("input -> output", task.seed_prompt)),
            trainset=[_row(dspy, problem, example) for example in problem.demonstrable],
            valset=[_row(dspy, problem, example) for example in task.validation],
            num_trials=trials,
            minibatch=len(task.validation) > FULL_UP_TO,
        )
    return problem.best


def plan(calls: int, validation: int) -> tuple[int, int]:
    """How many candidates of each sort, and how many trials at most."""
    full = validation <= FULL_UP_TO
    trial = validation if full else MINIBATCH + validation / FULL_EVALUATION_STEPS
    fitting = [
        size
        for size in SIZES
        # dspy's recommendation for one predictor, with instruction and demonstrations to choose.
        if validation + DEMONSTRATIONS * size + trial * max(4 * math.log2(size), 1.5 * size)
        <= calls
    ]
    # A trial that repeats pairs costs less, so that there may be more of them.
    return max(fitting, default=SIZES[0]), max(1, calls // (validation if full else MINIBATCH))


@contextlib.contextmanager
def _all_evaluated() -> Iterator[None]:
    """dspy ends with an error where it has fully evaluated every combination that it tried."""
    try:
        yield
    except ValueError as error:
        if "No valid program found" not in str(error):
            raise


def _row(dspy: Any, problem: Problem, example: Example) -> Any:
    answer = problem.task.shown_answer(example)
    return dspy.Example(input=example.text, output=answer).with_inputs("input")


class _Engine:
    """Our agent, as dspy speaks to an LLM."""

    def __init__(self, problem: Problem, protocol: Any) -> None:
        self._problem = problem
        self._protocol = protocol

    def complete(self, request: Any) -> Any:
        system = request.system if isinstance(request.system, str) else ""
        texts = [system, *(message.text or "" for message in request.messages)]
        answer = self._problem.write("\n\n".join(text for text in texts if text))
        return self._protocol.Response(
            id=None,
            model=request.model,
            # dspy ends the search at an empty answer.
            message=self._protocol.Message.assistant(answer or " "),
            finish_reason="stop",
            usage=self._protocol.Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )


def _adapter(dspy: Any, problem: Problem) -> Any:
    """The program is answered by our target; what the proposer asks goes to the agent."""
    task = problem.task
    examples = {example.text: example for example in (*task.train, *task.validation)}
    parse_error = dspy.AdapterParseError

    class Adapter(dspy.ChatAdapter):  # type: ignore[misc]
        def __call__(
            self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any
        ) -> list[dict[str, Any]]:
            if list(signature.fields) != ["input", "output"]:
                asked: list[dict[str, Any]] = super().__call__(
                    lm, lm_kwargs, signature, demos, inputs
                )
                return asked
            prompt = self.prompt(signature, demos)
            scored = problem.score(prompt, [examples[inputs["input"]]])
            return [{"output": scored.predictions[0], "value": scored.values[0]}]

        def parse(self, signature: Any, completion: str) -> dict[str, Any]:
            try:
                found: dict[str, Any] = super().parse(signature, completion)
            except parse_error:
                [field] = signature.output_fields
                return {field: completion.strip()}
            return found

        def prompt(self, signature: Any, demos: Sequence[Any]) -> str:
            """What the target reads: the instruction, and the demonstrations if there are any."""
            instruction: str = signature.instructions
            shown = [self.shown(demo) for demo in demos]
            return with_demonstrations(instruction, task, shown) if shown else instruction

        def shown(self, demo: Any) -> Example:
            """A bootstrapped demonstration shows what the target said."""
            example = examples[demo["input"]]
            return example if task.labels else replace(example, label=demo["output"])

    return Adapter()


def _batches(dspy: Any, problem: Problem, adapter: Any) -> Any:
    """Scores in one batch what dspy is about to ask one by one."""
    task = problem.task
    examples = {example.text: example for example in task.validation}
    is_over = Standstill(problem, IDLE_EVALUATIONS)

    class Batches(require("dspy.utils.callback").BaseCallback):  # type: ignore[misc]
        def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            program = inputs["program"]
            prompt = adapter.prompt(program.signature, program.demos)
            problem.score(prompt, [examples[row["input"]] for row in inputs["devset"]])
            if is_over():
                raise BudgetSpent

    return Batches()
