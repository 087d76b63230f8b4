"""A peer's optimiser as one run of a comparison: our agent, target, budget, figures."""

from itertools import count
from pathlib import Path
from typing import Final

from stableprompt.build import start_run
from stableprompt.config import TuneConfig
from stableprompt.parts import Parts
from stableprompt.studies.peers.problem import Problem
from stableprompt.studies.peers.registry import PEERS
from stableprompt.tasks.task import Task
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.records import Silence, TuneResult

ANSWER_TOKENS: Final = 128
"""What the agent may write at a time: peers ask for more than the bare prompt."""


def run_peer(name: str, task: Task, config: TuneConfig, path: Path) -> TuneResult:
    """Search with a peer's package, then select and test as ever.

    The agent is the same as for our methods, starting adapter included, and stays frozen. What the
    peer chose competes with the seed prompt on validation; both are paid for from the budget.

    Args:
        name: One of PEERS.
        task: Its data.
        config: Settings of the run; its budget is the peer's.
        path: A new run folder.

    Raises:
        ConfigError: the peer's package is not installed.
    """

    def search(parts: Parts) -> list[str]:
        return [PEERS[name](problem_of(parts, config))]

    return start_run(task, config.model_copy(update={"steps": 0}), path, Silence(), search=search)


def problem_of(parts: Parts, config: TuneConfig) -> Problem:
    """What a peer is given of a run's parts."""
    agent, numbers = parts.agent, count()

    def write(message: str) -> str:
        uniforms = derive_uniforms(config.seed, "peer", next(numbers), rows=1, length=ANSWER_TOKENS)
        query_ids = agent.query_ids([{"role": "user", "content": message}])
        responses = agent.sample(query_ids, uniforms)
        parts.scorer.ledger.add_agent(read=len(query_ids), written=int(responses.mask.sum()))
        return responses.texts[0]

    # Kept free: the seed prompt and the peer's choice on validation, where they were not asked.
    spare = 2 * len(parts.task.validation)
    budget = (config.budget or 0) - spare
    return Problem(parts.task, config.seed, write=write, scorer=parts.scorer, budget=budget)
