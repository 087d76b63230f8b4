"""Every prompt that was seen, and which of them deserve a second look."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from stableprompt.models.adapters import Role
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tuning.guards import Inspection


@dataclass(frozen=True, slots=True)
class Candidate:
    """One prompt as it was written, and what it earned; a line of ``prompts.jsonl``."""

    step: int
    writer: Role
    """policy or anchor."""
    scored_on: Purpose
    """training: the step's examples, for the update; validation: for an anchor decision."""
    prompt: str
    fault: PromptFault | None
    """Why it was refused, or None."""
    reward: float
    """``fault_reward`` where it was refused."""
    score: float | None
    """By the task's metric, 0-1; None where it was refused."""
    softmax_difference: float | None
    """In [-1, 1]; None where it was refused, and where answers are generated."""
    seed_reward: float | None
    """What the seed prompt earned on the same examples; None for anchor decisions."""
    surprise: float
    """How odd its language is, see ``Readability``."""
    num_words: int
    instruction: bool
    """Whether it asks for something."""

    @classmethod
    def of(
        cls,
        inspection: Inspection,
        score: PromptScore | None,
        refused: float,
        *,
        step: int,
        writer: Role,
        scored_on: Purpose,
        seed_reward: float | None = None,
    ) -> Self:
        """What was found out about one prompt; ``refused`` is the reward of one without score."""
        found = inspection.readability
        return cls(
            step=step,
            writer=writer,
            scored_on=scored_on,
            prompt=inspection.prompt,
            fault=inspection.fault,
            reward=score.reward if score else refused,
            score=score.score if score else None,
            softmax_difference=score.softmax_difference if score else None,
            seed_reward=seed_reward,
            surprise=found.surprise,
            num_words=found.num_words,
            instruction=found.instruction,
        )


_TUPLES = ("values", "predictions")  # JSON has lists


class CandidatePool:
    """Prompts by text, with their gain over the seed prompt and their validation scores."""

    def __init__(self) -> None:
        self._gains: dict[str, list[float]] = {}
        self.validated: dict[str, PromptScore] = {}
        self.faults: dict[str, int] = {}

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Remember the prompts of one step; refused ones are only counted.

        A text that was written several times in a step was scored once, on the same examples.
        """
        seen: set[str] = set()
        for candidate in candidates:
            if candidate.fault is not None:
                self.faults[candidate.fault] = self.faults.get(candidate.fault, 0) + 1
            elif candidate.seed_reward is not None and candidate.prompt not in seen:
                seen.add(candidate.prompt)
                gain = candidate.reward - candidate.seed_reward
                self._gains.setdefault(candidate.prompt, []).append(gain)

    def validate(self, prompts: Iterable[str], scorer: Scorer, examples: Sequence[Example]) -> None:
        """Score prompts on the whole validation split; each text is scored there once a run."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.validated]
        if new:
            scores = scorer.score_all(new, examples, Purpose.VALIDATION)
            self.validated.update(zip(new, scores, strict=True))

    def leaderboard(self, size: int) -> list[str]:
        """The prompts with the highest gain over the seed prompt on the same examples.

        Every step has examples of its own, so rewards of different steps do not compare; gains
        over the same prompt do. A gain seen in k steps is shrunk by k / (k + 1), so that one
        lucky draw does not outrank a prompt that was good again and again; losses are not shrunk.
        """
        trusted = {prompt: self.trusted_gain(prompt) for prompt in self._gains}
        return sorted(trusted, key=lambda prompt: (-trusted[prompt], prompt))[:size]

    def trusted_gain(self, prompt: str) -> float:
        """The mean gain of a prompt that was scored in a step, shrunk; see ``leaderboard``."""
        gains = self._gains[prompt]
        gain = sum(gains) / len(gains)
        return gain * len(gains) / (len(gains) + 1) if gain > 0 else gain

    @property
    def num_unique(self) -> int:
        """Different prompts that were scored, the seed prompt among them once it was validated."""
        return len(self._gains.keys() | self.validated.keys())

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "gains": self._gains,
            "validated": {prompt: asdict(score) for prompt, score in self.validated.items()},
            "faults": self.faults,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "CandidatePool":
        """Take back what ``to_dict`` gave."""
        pool = cls()
        pool._gains = dict(state["gains"])
        pool.validated = {
            prompt: PromptScore(**{**score, **{n: tuple(score[n]) for n in _TUPLES}})
            for prompt, score in state["validated"].items()
        }
        pool.faults = dict(state["faults"])
        return pool
