"""What a person sees: errors on one line, the progress of a run, the final summary."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from stableprompt.cli.terminal import LONGEST_LINE, cut, on_one_line, say
from stableprompt.errors import StablePromptError
from stableprompt.launched import process_number
from stableprompt.reporting.verdict import verdict_of
from stableprompt.runs.folder import TIMING, RunFolder
from stableprompt.tasks.example import TaskKind

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from stableprompt.tasks.statistics import Estimate
    from stableprompt.tuning.records import StepRecord, TuneResult

BAD_INPUT = 2


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that the user can act on into one line on stderr and exit code 2."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except StablePromptError as error:
            number = process_number()
            who = f"stableprompt, process {number}" if number else "stableprompt"
            told = "; ".join((str(error), *getattr(error, "__notes__", ())))
            say(on_one_line(f"{who}: {told}"), to_stderr=True)
            raise typer.Exit(BAD_INPUT) from error

    return wrapped


def figure(estimate: "Estimate") -> str:
    """0.712 [0.62, 0.79], n = 120."""
    return f"{estimate.score:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], n = {estimate.n}"


class ConsoleObserver:
    """Prints one line a step."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._steps = 0
        self._leader: str | None = None

    def on_start(self, first_step: int, steps: int) -> None:
        """Say where the loop begins."""
        self._steps = steps
        if first_step:
            self._console.print(f"resuming after step {first_step} of {steps}")

    def on_phase(self, phase: str) -> None:
        """Say what begins."""
        self._console.print(f"{phase} ...", style="dim")

    def on_note(self, note: str) -> None:
        """Say what was done to the data."""
        self._console.print(f"note: {on_one_line(note)}")

    def on_calls(self, calls: int, dollars: float | None) -> None:
        """Say nothing: a line for each would drown the steps."""

    def stop_asked(self) -> bool:
        """Go on; interrupts are another's, see ``cli/interrupts.py``."""
        return False

    def on_step(self, record: "StepRecord") -> None:
        """Rewards, KL, refused prompts, the anchor's decision, the leader where it changed."""
        parts = [f"step {record.step + 1:>3}/{self._steps}"]
        rewards = {"reward": record.mean_reward, "best": record.best_reward}
        for name, reward in {**rewards, "seed": record.seed_reward}.items():
            parts.append(f"{name} -" if reward is None else f"{name} {reward:+.3f}")
        if record.update:
            parts.append(f"KL {record.update['anchor_kl']:.3f}")
        if record.faults:
            parts.append(f"refused {sum(record.faults.values())}")
        parts.append(f"{record.seconds:.0f} s")
        self._console.print("  ".join(parts))
        if alarms := alarms_of(record):
            self._console.print(f"  monitor: {alarms}")
        if record.anchor:
            decision = spaced(record.anchor["decision"])
            self._console.print(
                f"  anchor: {decision}  (validation: policy {record.anchor['policy_score']:.3f}, "
                f"anchor {record.anchor['anchor_score']:.3f})"
            )
        if record.best_prompt and record.best_prompt != self._leader:
            self._leader = record.best_prompt
            self._console.print(f"  leader: {on_one_line(record.best_prompt, 66)}", style="italic")


def alarms_of(record: "StepRecord") -> str:
    """What a step was found to be like, and what was done about it; empty where all was well."""
    alarms = ", ".join(spaced(alarm) for alarm in record.monitor["alarms"])
    actions = ", ".join(spaced(action) for action in record.monitor["actions"])
    return f"{alarms}: {actions}" if actions else alarms


def print_summary(console: "Console", result: "TuneResult") -> None:
    """The verdict, both prompts with their figures, the paired comparison, and the cost."""
    from rich.table import Table

    table = Table(title="Result", show_header=False, title_justify="left", pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    paired = result.paired
    table.add_row("seed prompt", cut(result.seed_prompt, LONGEST_LINE))
    measured = f"  test {result.test.metric.replace('_', ' ')}"
    table.add_row(measured, figure(result.seed_test))
    if result.prompt == result.seed_prompt:
        table.add_row("best prompt", "the seed prompt")
    else:
        table.add_row("best prompt", cut(result.prompt, LONGEST_LINE))
        table.add_row(measured, figure(result.test))
        table.add_row(
            "difference",
            f"{paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}], paired over "
            f"n = {paired.n}, p = {paired.p_value:.2g}",
        )
    table.add_row("verdict", verdict(result))
    for name, told in per_input_rows(result):
        table.add_row(name, told)
    if result.trivial_score is not None:
        near = "; the best prompt is not clearly above it" if result.flagged else ""
        trivial = trivial_name(TaskKind(result.setting["kind"]))
        table.add_row(trivial, f"{result.trivial_score:.3f} on test{near}")
    for name, told in cost_rows(result):
        table.add_row(name, told)
    refused = ", ".join(f"{n} {why}" for why, n in result.candidates["refused"].items()) or "none"
    table.add_row(
        "candidates",
        f"{result.candidates['unique']} different prompts, "
        f"{result.candidates['compared_on_validation']} compared on validation; refused: {refused}",
    )
    table.add_row("language", language(result))
    decisions = ", ".join(
        f"{n} {name.replace('_', ' ')}" for name, n in result.anchor_decisions.items()
    )
    table.add_row("anchor", decisions or "no decisions")
    alarms = ", ".join(f"{n} {spaced(name)}" for name, n in result.alarms.items()) or "none"
    collapsed = "; the policy had collapsed at the end" if result.collapsed else ""
    table.add_row("alarms", f"{alarms}{collapsed}")
    table.add_row("run folder", str(result.run_dir))
    console.print(table)


def cost_rows(result: "TuneResult") -> list[tuple[str, str]]:
    """Calls and tokens by what they were for, dollars, and what did not go as it should."""
    cost = result.cost
    judged = f", {cost['judge_calls']} judge calls" if cost["judge_calls"] else ""
    dollars = cost["dollars"]
    paid = ", price unknown" if dollars is None else f", ${dollars:.4g}" if dollars else ""
    timing = result.run_dir / TIMING
    weather = RunFolder(result.run_dir).read_json(TIMING) if timing.is_file() else {}
    took = f", {weather['seconds']:.0f} s" if "seconds" in weather else ""
    rows = [
        (
            "cost",
            f"{result.target_calls} target calls, {sum(cost['target_tokens'].values())} target "
            f"tokens{judged}, {cost['agent_tokens_written']} agent tokens written{paid}{took}",
        )
    ]
    parts = ", ".join(f"{n} {purpose}" for purpose, n in cost["target_calls"].items() if n)
    requests = weather.get("requests") or {}
    if "sent" in requests:
        told = f"{requests['sent']} sent, {requests['retries']} of them again"
        parts = f"{parts or 'none'}; {told}; {requests['from_disk']} known from disk"
    if parts:
        rows.append(("  calls", parts))
    if replicas := requests.get("replicas"):
        rows.append(("  replicas", ", ".join(map(_replica, replicas.items()))))
    if actors := requests.get("actors"):
        rows.append(("  actors", ", ".join(_actor(told) for told in actors.values())))
    if failed := sum(cost["failed"].values()):
        rows.append(("  no answer", f"{failed} calls failed for good; they are in no score"))
    if unmatched := sum(cost["unmatched"].values()):
        rows.append(("  no label", f"{unmatched} answers name none; they count as wrong"))
    return rows


def _replica(told: tuple[str, dict[str, int]]) -> str:
    name, found = told
    aside = _how_often("set aside", found["set_aside"])
    return f"{found['sent']} to {on_one_line(name)}{aside}"


def _actor(found: dict[str, int]) -> str:
    return f"{found['done']} portions{_how_often('lost', found['lost'])}"


def _how_often(what: str, times: int) -> str:
    often = "once" if times == 1 else f"{times} times"
    return f" ({what} {often})" if times else ""


def per_input_rows(result: "TuneResult") -> list[tuple[str, str]]:
    """What a prompt for each input brings, what it costs, and whether it is kept."""
    found = result.per_input
    if found is None:
        return []
    over = found.over_fixed
    refused = ", ".join(f"{n} {why}" for why, n in found.refused.items()) or "none"
    return [
        ("a prompt for each input", found.reason),
        ("  test", figure(found.test)),
        (
            "  difference",
            f"{over.difference:+.3f} [{over.low:+.3f}, {over.high:+.3f}] to the best prompt, "
            f"paired over n = {over.n}, p = {over.p_value:.2g}",
        ),
        (
            "  agent alone",
            f"{figure(found.agent_alone)}: it answers in the target's place"
            if found.agent_alone
            else "cannot answer in the target's place",
        ),
        ("  written", f"{found.different} different; refused: {refused}"),
        ("  seconds an input", _seconds(result.run_dir)),
        (
            "  tokens an input",
            f"agent {found.cost.agent_read:.0f} read, {found.cost.agent_written:.0f} written, "
            f"target {found.cost.target:.0f}; without it target {found.fixed_cost.target:.0f}",
        ),
    ]


def _seconds(run_dir: "Path") -> str:
    told = RunFolder(run_dir).read_json(TIMING)
    return (
        f"agent {told['agent']:.2f}, target {told['target']:.2f}; without it target "
        f"{told['fixed_target']:.2f} (in batches, on this machine)"
    )


def language(result: "TuneResult") -> str:
    """How readable the chosen instruction is, and which prompt to ship where it is not."""
    found = result.readability
    words = f"{found.num_words} words, surprise {found.surprise:+.1f}"
    if result.readable:
        return f"readable; {words}"
    shipped = (
        f"{cut(result.readable_prompt, LONGEST_LINE)!r} is, test {figure(result.readable_test)}"
    )
    return f"not readable; {words}; {shipped}"


def spaced(name: str) -> str:
    """Names of kinds and metrics as words: "multiple choice"."""
    return name.replace("_", " ")


def trivial_name(kind: TaskKind) -> str:
    """What the best answer that needs no thought is called."""
    return "majority class" if kind is TaskKind.CLASSIFICATION else "best trivial answer"


def verdict(result: "TuneResult") -> str:
    """One sentence that does not oversell."""
    return verdict_of(
        seed_chosen=result.prompt == result.seed_prompt,
        improved=result.improved,
        p_value=result.paired.p_value,
    )
