"""What a person reads: step lines, the summary, the verdict; nothing in a prompt is markup."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from stableprompt.cli.reporting import (
    ConsoleObserver,
    figure,
    one_line_errors,
    print_summary,
    verdict,
)
from stableprompt.cli.terminal import make_console
from stableprompt.errors import DataError
from stableprompt.tasks.formats import InputFormat
from stableprompt.tasks.readability import Readability
from stableprompt.tasks.statistics import Estimate, PairedComparison
from stableprompt.tasks.templates import TargetTemplate
from stableprompt.tuning.records import StepRecord, TuneResult
from tests.cli.conftest import assert_fits

SCORE = Estimate(0.75, 0.5, 0.9, 20, "accuracy")
SEED_SCORE = Estimate(0.5, 0.3, 0.7, 20, "accuracy")

RESULT = TuneResult(
    prompt="Better",
    instruction="Better",
    seed_prompt="Plain",
    method="appo",
    seed=0,
    test=SCORE,
    seed_test=SEED_SCORE,
    paired=PairedComparison(0.25, 0.05, 0.45, 0.0625, 20),
    readability=Readability(-0.42, 1, True),
    readable=True,
    readable_prompt="Better",
    readable_test=SCORE,
    max_of_five=None,
    validation=SCORE,
    seed_validation=SEED_SCORE,
    trivial_score=0.4,
    target_calls=123,
    cost={
        "target_calls": {"training": 100, "validation": 0, "test": 23},
        "target_tokens": {"training": 4, "test": 6},
        "failed": {"training": 0},
        "unmatched": {"training": 0},
        "judge_calls": 0,
        "agent_tokens_written": 9,
        "dollars": 0.0,
    },
    candidates={"unique": 7, "compared_on_validation": 3, "refused": {"copy": 2, "empty": 1}},
    anchor_decisions={"keep": 1, "roll_back": 2},
    alarms={},
    collapsed=False,
    setting={"kind": "classification"},
    template=TargetTemplate(),
    layout=InputFormat("{text}"),
    run_dir=Path("runs/x"),
)

RECORD = StepRecord(
    step=4,
    mean_reward=-0.25,
    best_reward=1.5,
    seed_reward=0.5,
    mean_score=0.5,
    faults={"copy": 2, "babble": 1},
    update={"anchor_kl": 0.0211},
    monitor={"readings": {}, "alarms": [], "actions": []},
    anchor={"decision": "roll_back", "policy_score": 0.25, "anchor_score": 0.5},
    best_prompt="Name the colour",
    target_calls=10,
    dollars=0.0,
    seconds=2.4,
)

TRICKY = [
    "Say [bold]red[/bold]",
    "[/x] closes nothing",
    "[red]",
    "Answer :smile: or :red_circle:",
    "Write a \\[bracket]",
    "ends with a backslash\\",
    "{braces} %s 100%",
]


def console() -> tuple[Console, io.StringIO]:
    """The program's own console, writing into memory."""
    made, output = make_console(), io.StringIO()
    made.file = output
    made.width = 80
    return made, output


def summary(result: TuneResult) -> str:
    target, output = console()
    print_summary(target, result)
    return output.getvalue()


def said(output: str) -> str:
    return " ".join(output.replace("│", " ").split())


def steps(*records: StepRecord) -> list[str]:
    target, output = console()
    observer = ConsoleObserver(target)
    observer.on_start(0, 15)
    for record in records:
        observer.on_step(record)
    return output.getvalue().splitlines()


# --- figures and verdicts ---


def test_a_figure_has_its_interval_and_its_n() -> None:
    assert figure(SCORE) == "0.750 [0.500, 0.900], n = 20"


@pytest.mark.parametrize(
    ("prompt", "difference", "p_value", "says"),
    [
        ("Plain", 0.0, 1.0, "no improvement found"),
        ("Better", 0.0, 1.0, "no improvement: "),
        ("Better", -0.1, 0.01, "no improvement: "),
        ("Better", 0.1, 0.05, "not proven"),
        ("Better", 0.1, 0.049, "improved: "),
    ],
)
def test_the_verdict_does_not_oversell(
    prompt: str, difference: float, p_value: float, says: str
) -> None:
    paired = replace(RESULT.paired, difference=difference, p_value=p_value)
    assert verdict(replace(RESULT, prompt=prompt, paired=paired)).startswith(says)


def test_the_summary_says_everything() -> None:
    output = summary(RESULT)
    assert_fits(output)
    text = said(output)
    for part in (
        "seed prompt Plain test accuracy 0.500 [0.300, 0.700], n = 20",
        "best prompt Better test accuracy 0.750 [0.500, 0.900], n = 20",
        "difference +0.250 [+0.050, +0.450], paired over n = 20, p = 0.062",
        "verdict not proven",
        "majority class 0.400 on test",
        "123 target calls, 10 target tokens, 9 agent tokens written calls 100 training",
        "calls 100 training, 23 test",
        "7 different prompts, 3 compared on validation; refused: 2 copy, 1 empty",
        "anchor 1 keep, 2 roll back",
        "run folder runs/x",
    ):
        assert part in text


def test_a_score_at_the_majority_class_is_flagged() -> None:
    near = "; the best prompt is not clearly above it"
    assert near not in said(summary(RESULT))  # the interval begins at 0.5, the majority is 0.4
    assert f"majority class 0.500 on test{near}" in said(
        summary(replace(RESULT, trivial_score=0.5))
    )


def test_other_metrics_kinds_and_a_judge_are_named() -> None:
    measured = replace(SCORE, metric="token_f1")
    cost = {**RESULT.cost, "judge_calls": 12}
    other = replace(
        RESULT, test=measured, setting={"kind": "generation"}, cost=cost, trivial_score=0.125
    )
    text = said(summary(other))
    assert "best prompt Better test token f1 0.750" in text
    assert "best trivial answer 0.125 on test" in text
    assert "12 judge calls" in text
    assert "best trivial answer" not in said(summary(replace(other, trivial_score=None)))


def test_what_a_server_charges_and_what_went_wrong_is_said(tmp_path: Path) -> None:
    requests = {"sent": 130, "retries": 7, "from_disk": 12}
    (tmp_path / "timing.json").write_text(json.dumps({"seconds": 61.4, "requests": requests}))
    cost = {
        **RESULT.cost,
        "dollars": 0.01234,
        "failed": {"training": 2, "test": 1},
        "unmatched": {"training": 5},
    }
    text = said(summary(replace(RESULT, cost=cost, run_dir=tmp_path)))
    assert "9 agent tokens written, $0.01234, 61 s" in text
    assert "100 training, 23 test; 130 sent, 7 of them again; 12 known from disk" in text
    assert "no answer 3 calls failed for good; they are in no score" in text
    assert "no label 5 answers name none; they count as wrong" in text
    quiet = said(summary(RESULT))
    assert "$" not in quiet
    assert "no answer" not in quiet
    assert "no label" not in quiet
    assert "price unknown" in said(summary(replace(RESULT, cost={**RESULT.cost, "dollars": None})))


def test_the_share_of_each_replica_is_said(tmp_path: Path) -> None:
    replicas = {
        "http://one/v1": {"sent": 90, "set_aside": 0},
        "http://once/v1": {"sent": 7, "set_aside": 1},
        "http://two/v1": {"sent": 40, "set_aside": 3},
    }
    requests = {"sent": 130, "retries": 7, "from_disk": 12, "replicas": replicas}
    (tmp_path / "timing.json").write_text(json.dumps({"requests": requests}))
    text = said(summary(replace(RESULT, run_dir=tmp_path)))
    assert "90 to http://one/v1, 7 to http://once/v1 (set aside once), 40 to http://two" in text
    assert "http://two/v1 (set aside 3 times)" in text
    assert "replicas" not in said(summary(RESULT))


def test_what_ray_actors_did_is_said(tmp_path: Path) -> None:
    actors = {"0": {"done": 12, "lost": 1}, "1": {"done": 9, "lost": 0}}
    (tmp_path / "timing.json").write_text(json.dumps({"requests": {"actors": actors}}))
    text = said(summary(replace(RESULT, run_dir=tmp_path)))
    assert "actors 12 portions (lost once), 9 portions" in text
    assert "sent" not in text


def test_the_summary_of_a_run_without_refusals_and_decisions() -> None:
    quiet = {**RESULT.candidates, "refused": {}}
    text = said(summary(replace(RESULT, candidates=quiet, anchor_decisions={})))
    assert "refused: none" in text
    assert "anchor no decisions" in text


def test_where_the_seed_prompt_wins_it_is_shown_once() -> None:
    seed_won = replace(RESULT, prompt="Plain", test=SEED_SCORE)
    text = said(summary(seed_won))
    assert text.count("Plain") == text.count("0.500 [0.300, 0.700]") == 1
    assert "best prompt the seed prompt verdict no improvement found" in text
    assert "difference" not in text


def test_rows_that_would_say_nothing_are_left_out() -> None:
    calls = dict.fromkeys(RESULT.cost["target_calls"], 0)
    text = said(summary(replace(RESULT, cost={**RESULT.cost, "target_calls": calls})))
    assert "written candidates" in text  # no row of calls in between


@pytest.mark.parametrize("prompt", TRICKY)
def test_prompts_are_shown_as_they_are(prompt: str) -> None:
    output = summary(replace(RESULT, prompt=prompt, seed_prompt=f"{prompt} as well"))
    text = said(output)
    assert f"best prompt {prompt} test accuracy" in text
    assert f"seed prompt {prompt} as well test accuracy" in text


def test_a_run_folder_is_shown_as_it_is() -> None:
    assert "run folder runs/[bold] [/x]" in said(
        summary(replace(RESULT, run_dir=Path("runs/[bold] [/x]")))
    )


def test_long_prompts_are_folded_and_whole() -> None:
    prompt = "word" * 60
    output = summary(replace(RESULT, prompt=prompt))
    assert_fits(output)
    assert prompt in said(output).replace(" ", "")


# --- steps ---


def test_a_step_is_one_line_and_a_decision_another() -> None:
    step, anchor, leader = steps(RECORD)
    assert step == "step   5/15  reward -0.250  best +1.500  seed +0.500  KL 0.021  refused 3  2 s"
    assert anchor == "  anchor: roll back  (validation: policy 0.250, anchor 0.500)"
    assert leader == "  leader: Name the colour"


def test_a_step_of_best_of_n_has_no_kl_and_no_decision() -> None:
    [line] = steps(replace(RECORD, update=None, anchor=None, faults={}, best_prompt=None))
    assert line == "step   5/15  reward -0.250  best +1.500  seed +0.500  2 s"


def test_the_leader_is_shown_only_where_it_changed() -> None:
    plain = replace(RECORD, anchor=None)
    lines = steps(plain, plain, replace(plain, best_prompt="Other"), plain)
    leaders = [line for line in lines if "leader" in line]
    assert leaders == ["  leader: Name the colour", "  leader: Other", "  leader: Name the colour"]


@pytest.mark.parametrize("prompt", TRICKY)
def test_leaders_are_shown_as_they_are(prompt: str) -> None:
    assert steps(replace(RECORD, best_prompt=prompt))[-1] == f"  leader: {prompt}"


def test_a_long_leader_of_several_lines_is_one_short_line() -> None:
    lines = steps(replace(RECORD, best_prompt="one\ntwo  " + "word " * 40, anchor=None))
    assert len(lines) == 2
    assert lines[1].startswith("  leader: one two word")
    assert lines[1].endswith("…")
    assert_fits("\n".join(lines))


def test_phases_and_resuming_are_said() -> None:
    target, output = console()
    observer = ConsoleObserver(target)
    observer.on_phase("reading [bold] things")
    observer.on_start(3, 9)
    assert output.getvalue() == "reading [bold] things ...\nresuming after step 3 of 9\n"


# --- errors ---


def test_errors_of_the_user_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @one_line_errors
    def command(**_: Any) -> None:
        raise DataError("first\n  second [/x] [bold]")

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "stableprompt: first second [/x] [bold]\n")


def test_other_errors_are_not_hidden() -> None:
    @one_line_errors
    def command() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        command()


# --- monitors and language ---


def test_alarms_of_a_step_are_said_with_what_was_done() -> None:
    monitor = {"readings": {}, "alarms": ["drift", "nothing_to_learn"], "actions": ["raise_kl"]}
    lines = steps(replace(RECORD, monitor=monitor))
    assert "  monitor: drift, nothing to learn: raise kl" in lines
    quiet = steps(replace(RECORD, monitor={**monitor, "actions": []}))
    assert "  monitor: drift, nothing to learn" in quiet
    assert not any("monitor" in line for line in steps(RECORD))


def test_the_summary_says_how_the_run_went_and_how_the_prompt_reads() -> None:
    fine = said(summary(RESULT))
    assert "language readable; 1 words, surprise -0.4" in fine
    assert "alarms none" in fine
    odd = replace(
        RESULT,
        readable=False,
        readable_prompt="Plain",
        readable_test=SEED_SCORE,
        alarms={"collapse": 3},
        collapsed=True,
    )
    told = said(summary(odd))
    assert "not readable" in told
    assert "'Plain' is, test 0.500 [0.300, 0.700], n = 20" in told
    assert "alarms 3 collapse; the policy had collapsed at the end" in told
