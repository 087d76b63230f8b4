"""Every prompt that was seen, and which of them deserve a second look."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from stableprompt.errors import RunError
from stableprompt.models.adapters import Role
from stableprompt.scoring.ledger import Purpose
from stableprompt.scoring.limits import LimitReached
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.example import Example
from stableprompt.tasks.prompt_checks import PromptFault
from stableprompt.tasks.splits import identity
from stableprompt.tuning.guards import Inspection
from stableprompt.tuning.ratings import ratings_of, variances_of, written_together
from stableprompt.tuning.traits import traits_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """One prompt as it was written, and what it earned; a line of ``prompts.jsonl``."""

    step: int
    writer: Role
    """policy, anchor or first."""
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
    written_for: str | None = None
    """The input that it was written for; None where it is for all."""

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
            written_for=inspection.written_for,
        )


def by_policy(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that the policy wrote: what is read of a step tells of it alone."""
    return [candidate for candidate in candidates if candidate.writer is Role.POLICY]


_TUPLES = ("values", "rewards", "predictions", "left_out")  # JSON has lists


class CandidatePool:
    """Prompts by text: what each earned on which examples, and what that says of them.

    Args:
        seed_prompt: The prompt to beat.
    """

    def __init__(self, seed_prompt: str) -> None:
        self._groups = {seed_prompt: 0}
        """Who wrote each prompt: the policy of which step. The first is the seed prompt."""
        self._steps = {seed_prompt: 0}
        """When each was written: the prompts of a step are scored on the same examples."""
        self._seen: dict[str, dict[int, float]] = {seed_prompt: {}}
        """What each prompt earned, by the number of the example."""
        self._numbers: dict[str, int] = {}
        self._ratings: dict[str, float] = {}
        self.validated: dict[str, PromptScore] = {}
        """Prompts with what they achieved on the whole validation split."""
        self.faults: dict[str, int] = {}
        self.anchor_group = 0
        """The policy of which step the anchor is."""

    def count_faults(self, candidates: Iterable[Candidate]) -> None:
        """Count the prompts that were refused, by reason."""
        for candidate in candidates:
            if candidate.fault is not None:
                self.faults[candidate.fault] = self.faults.get(candidate.fault, 0) + 1

    def add(
        self,
        prompts: Iterable[str],
        scores: Iterable[PromptScore],
        examples: Sequence[Example],
        *,
        group: int | None = None,
        step: int | None = None,
    ) -> None:
        """Remember what prompts earned.

        Args:
            prompts: One of them may be the seed prompt.
            scores: Theirs.
            examples: What they were asked about.
            group: The policy of which step wrote those that are new; None for the last one's.
            step: When it wrote them; None where that was its own step.
        """
        group = self.last_group if group is None else group
        known = self._numbers
        numbers = [known.setdefault(identity(example), len(known)) for example in examples]
        for prompt, score in zip(prompts, scores, strict=True):
            self._groups.setdefault(prompt, group)
            self._steps.setdefault(prompt, group if step is None else step)
            earned = zip(score.answered(numbers), score.rewards, strict=True)
            self._seen.setdefault(prompt, {}).update(earned)
        self._ratings = {}

    @property
    def last_group(self) -> int:
        """The last step of which prompts were scored."""
        return max(self._groups.values())

    def validate(
        self,
        prompts: Iterable[str],
        scorer: Scorer,
        examples: Sequence[Example],
        *,
        group: int | None = None,
    ) -> None:
        """Score prompts on the whole validation split; each text is scored there once a run.

        Where a limit of the run cuts it short, they count with what is known of them. Those that
        the target refuses are not validated.

        Raises:
            LimitReached: nothing is known of one of them.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.validated]
        if new:
            try:
                scores = scorer.score_each([(p, examples) for p in new], Purpose.VALIDATION)
            except LimitReached:
                self.recall(new, scorer, examples, group=group)
                if not set(new) <= self.validated.keys():
                    raise
                return
            known = {p: s for p, s in zip(new, scores, strict=True) if s is not None}
            self.add(known, known.values(), examples, group=group)
            self.validated.update(known)

    def recall(
        self,
        prompts: Sequence[str],
        scorer: Scorer,
        examples: Sequence[Example],
        *,
        group: int | None = None,
    ) -> None:
        """Count what is known of prompts on the validation split, without a call."""
        found = scorer.remembered([(prompt, examples) for prompt in prompts])
        for prompt, score in zip(prompts, found, strict=True):
            if score is not None:
                self.add([prompt], [score], examples, group=group)
                self.validated.setdefault(prompt, score)

    def leaderboard(self, size: int) -> list[str]:
        """The prompts with the highest ratings, the seed prompt aside."""
        found = self._rate()
        seed_prompt = self._seed_prompt
        return [
            prompt
            for prompt in sorted(found, key=lambda prompt: (-found[prompt], prompt))
            if prompt != seed_prompt
        ][:size]

    def rating(self, prompt: str) -> float:
        """What a prompt that was scored is expected to earn on an example; see ``ratings``."""
        return self._rate()[prompt]

    def gain(self, prompt: str) -> float:
        """Its rating above the seed prompt's."""
        return self.rating(prompt) - self.rating(self._seed_prompt)

    def _rate(self) -> dict[str, float]:
        if not self._ratings and self._numbers:
            groups, seen = list(self._groups.values()), list(self._seen.values())
            traits = traits_of(list(self._groups))
            tables = written_together(groups, list(self._steps.values()))
            found = ratings_of(groups, seen, variances_of(tables, seen, traits), traits)
            # Rounded: what differs in the last digits alone is equal, and the seed prompt stays.
            self._ratings = dict(zip(self._groups, found.round(6).tolist(), strict=True))
        return self._ratings

    @property
    def _seed_prompt(self) -> str:
        return next(iter(self._groups))

    @property
    def num_unique(self) -> int:
        """Different prompts that were scored."""
        return sum(bool(seen) for seen in self._seen.values())

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "groups": self._groups,
            "steps": self._steps,
            "seen": [list(map(list, own.items())) for own in self._seen.values()],
            "numbers": self._numbers,
            "validated": {prompt: asdict(score) for prompt, score in self.validated.items()},
            "faults": self.faults,
            "anchor_group": self.anchor_group,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "CandidatePool":
        """Take back what ``to_dict`` gave.

        Raises:
            RunError: it was written by another version.
        """
        if not {"groups", "steps"} <= state.keys():
            raise RunError(
                "the run was begun by another version, which kept other figures of its prompts; "
                "start a new run"
            )
        pool = cls("")
        pool._groups, pool._steps = dict(state["groups"]), dict(state["steps"])
        pool._seen = dict(zip(pool._groups, map(dict, state["seen"]), strict=True))
        pool._numbers = dict(state["numbers"])
        pool.validated = {
            prompt: PromptScore(**{**score, **{n: tuple(score.get(n, ())) for n in _TUPLES}})
            for prompt, score in state["validated"].items()
        }
        pool.faults = dict(state["faults"])
        pool.anchor_group = state["anchor_group"]
        return pool
