"""Who takes the next job, and what becomes of those that are lost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from stableprompt.errors import DataError, TargetError
from stableprompt.models.targets.crew import Crew, Lost

Work = Callable[[int, Any], Any]
"""Member and job to what comes of it, or what is raised."""


@dataclass
class Script:
    """Members on a clock of their own: each takes its seconds for a job."""

    seconds: Sequence[float]
    work: Work = lambda member, job: (member, job)
    says: Callable[[int, int], Any] = lambda member, life: "a target"
    """What a member says of itself in its n-th life, or what is raised; None: it never comes up."""
    clock: float = 0.0
    given: list[tuple[int, Any]] = field(default_factory=list)
    _calls: dict[int, tuple[float, Callable[[], Any]]] = field(default_factory=dict)
    _lives: dict[int, int] = field(default_factory=dict)

    def start(self, member: int) -> int:
        life = self._lives[member] = self._lives.get(member, 0) + 1
        told = self.says(member, life)
        return self._add(1.0 if told is not None else float("inf"), lambda: told)

    def give(self, member: int, job: Any) -> int:
        self.given.append((member, job))
        return self._add(self.seconds[member], lambda: self.work(member, job))

    def _add(self, seconds: float, outcome: Callable[[], Any]) -> int:
        number = len(self._calls)
        self._calls[number] = (self.clock + seconds, outcome)
        return number

    def first_done(self, calls: Sequence[int], seconds: float | None) -> int | None:
        call = min(calls, key=lambda number: self._calls[number][0])
        when = self._calls[call][0]
        if seconds is not None and when > self.clock + seconds:
            return None
        self.clock = max(self.clock, when)
        return call

    def outcome(self, call: int) -> Any:
        found = self._calls[call][1]()
        if isinstance(found, Exception):
            raise found
        return found


def gathered(script: Script, **options: Any) -> tuple[Crew, list[str]]:
    crew, notes = Crew(script, len(script.seconds), patience=60, **options), list[str]()
    crew.tell = notes.append
    crew.gather()
    return crew, notes


def test_who_is_done_takes_the_next_job() -> None:
    script = Script([1.0, 3.5])
    crew, _ = gathered(script)
    found = crew.do("abcdefgh")
    assert [job for _, job in found] == list("abcdefgh")  # in their order, whoever did them
    # The fast one is done at 1, 2, 3, 4, 5 and 6, the slow one at 3.5 and 7.
    assert [member for member, _ in found] == [0, 1, 0, 0, 0, 1, 0, 0]
    assert crew.done == [6, 2]
    crew.do("i", counted=False)
    assert crew.done == [6, 2]


def test_no_more_are_asked_than_there_are_jobs() -> None:
    script = Script([1.0] * 3)
    crew, _ = gathered(script)
    assert crew.do("a") == [(0, "a")]
    assert crew.do("") == []
    assert len(script.given) == 1


def dies_once(member: int, at: str) -> Work:
    alive = [member]

    def work(own: int, job: Any) -> Any:
        if own in alive and job == at:
            alive.remove(own)
            return Lost("killed")
        return own, job

    return work


def test_the_job_of_one_that_is_lost_is_done_by_another() -> None:
    script = Script([1.0, 1.0], dies_once(1, "d"))
    crew, notes = gathered(script)
    found = crew.do("abcdef")
    assert [job for _, job in found] == list("abcdef")
    assert [member for member, job in script.given if job == "d"] == [1, 0]
    assert crew.lost == [0, 1]
    assert notes == ["actor 1 of the target is lost (killed); another one is begun in its place"]
    script.given.clear()
    crew.do("ghij")
    assert {member for member, _ in script.given} == {0, 1}  # the new one works


def test_a_job_that_ends_whoever_has_it_does_not_go_on_for_ever() -> None:
    script = Script([1.0, 1.0], lambda member, job: Lost("out of memory") if job == "b" else job)
    crew, notes = gathered(script)
    with pytest.raises(TargetError, match=r"none of the 2 actors .* \(out of memory\).* resume"):
        crew.do("abc")
    assert crew.lost == [4, 4]  # each was replaced three times
    assert sum("it is not begun again" in note for note in notes) == 2


def test_what_a_job_raises_comes_out_and_the_crew_goes_on() -> None:
    script = Script([1.0, 5.0], lambda member, job: DataError("bad") if job == "b" else job)
    crew, _ = gathered(script)
    with pytest.raises(DataError, match="bad"):
        crew.do("ab")
    assert crew.do("cd") == ["c", "d"]
    assert crew.lost == [0, 0]


def test_one_that_does_not_come_back_holds_up_nobody() -> None:
    def says(member: int, life: int) -> Any:
        return None if (member, life) == (1, 2) else "a target"

    script = Script([1.0, 1.0], dies_once(1, "b"), says)
    crew, _ = gathered(script)
    assert [job for _, job in crew.do("abcd")] == list("abcd")
    assert [job for _, job in crew.do("efgh")] == list("efgh")
    assert script.clock < 60


def test_where_none_is_left_new_ones_are_waited_for_no_longer_than_was_said() -> None:
    script = Script([1.0], dies_once(0, "a"), lambda member, life: "it" if life == 1 else None)
    crew, _ = gathered(script)
    with pytest.raises(TargetError, match=r"none of the 1 actors .* \(killed\)"):
        crew.do("a")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("another", "do not hold the same target"),
        (DataError("no"), "no"),
        (RuntimeError("CUDA out of memory"), "CUDA out of memory"),
    ],
)
def test_one_that_is_another_target_is_not_taken_on(second: Any, said: str) -> None:
    script = Script(
        [1.0, 1.0], dies_once(1, "b"), lambda member, life: "it" if life == 1 else second
    )
    crew, notes = gathered(script)
    crew.do("abcdef")
    crew.do("ghijkl")
    assert [member for member, _ in script.given].count(1) == 1
    assert crew.lost == [0, 4]
    assert said in notes[1]


def test_those_that_differ_from_the_first_are_refused_at_the_start() -> None:
    script = Script([1.0, 1.0], says=lambda member, life: f"target {member}")
    with pytest.raises(TargetError, match="not hold the same target: target 0 and target 1"):
        gathered(script)
    with pytest.raises(TargetError, match=r"lost while it loaded the target \(gone\)"):
        gathered(Script([1.0], says=lambda member, life: Lost("gone")))
    with pytest.raises(DataError, match="no such folder"):  # as in this process
        gathered(Script([1.0], says=lambda member, life: DataError("no such folder")))
