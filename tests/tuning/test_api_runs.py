"""Whole runs with a target behind an API: what goes wrong there changes no figure."""

import json
import logging
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.errors import RunError, TargetError
from stableprompt.tasks.example import Example
from stableprompt.tasks.splits import SPLIT_NAMES, SplitName, identity
from stableprompt.tuning.collect import draw_examples
from stableprompt.tuning.records import Observer, Silence, TuneResult
from tests.fakes.api_chat import Messages
from tests.fakes.api_faults import (
    CONTENT_FILTER,
    ERROR_IN_200,
    HALF_JSON,
    HANG,
    NO_CONTENT,
    SERVER_ERROR,
    TEMPORARY,
    Fault,
    Faults,
    Seen,
    always,
    drip,
    error_reply,
    random_faults,
    rate_limit,
)
from tests.fakes.api_server import ApiServer
from tests.fakes.killers import KillAfter, Killed
from tests.fakes.word_agent import make_task
from tests.fakes.word_server import DIALECTS, KEY, answer, chats, for_input, serve_words, target_at
from tests.tuning.conftest import tiny_config

pytestmark = pytest.mark.usefixtures("elsewhere")

TASK = make_task(size=40)
SHORT: dict[str, Any] = {"steps": 2}
PER_INPUT: dict[str, Any] = {**SHORT, "per_input": {"mode": "always", "prompts": 2}}
WAYS = {
    "written answers": "that the server writes",
    "top tokens": "top 20 tokens",
    "token ids": "logprob_token_ids",
}
FILES = ("result.json", "prompts.jsonl", "pairs.jsonl", "test.json", "best_prompt.txt")
# The last two are over only when the client's patience is.
PASSING = (*TEMPORARY, rate_limit(0.03), ERROR_IN_200, NO_CONTENT, HANG, drip(0.05))


def start(
    server: ApiServer,
    folder: Path,
    *,
    observer: Observer | None = None,
    api: dict[str, Any] | None = None,
    **settings: Any,
) -> TuneResult:
    config = tiny_config(**{**SHORT, **settings, "target": target_at(server, **api or {})})
    return build.start_run(TASK, config, folder, observer or Silence())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_behind(folder: Path) -> dict[str, bytes]:
    """All that equal runs have in common, byte by byte: the result with its ledger, the prompts."""
    return {name: (folder / name).read_bytes() for name in FILES}


def weather(folder: Path) -> dict[str, int]:
    requests: dict[str, int] = json.loads((folder / "timing.json").read_text())["requests"]
    return requests


@pytest.fixture(params=list(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- what passes ---


def test_three_faults_in_ten_leave_the_run_as_it_is(dialect: str, tmp_path: Path) -> None:
    with serve_words(dialect) as server:
        start(server, tmp_path / "calm")
        calm = len(server.requests)
    assert (
        WAYS[dialect]
        in json.loads((tmp_path / "calm" / "result.json").read_text())["setting"]["answers"]
    )
    faults = random_faults(0.3, 3, kinds=PASSING)
    with serve_words(dialect, faults=faults) as server:
        api = {"cache": False, "timeout_seconds": 0.5}
        result = start(server, tmp_path / "stormy", api=api)
        met = {seen.fault for seen in server.requests}
    assert left_behind(tmp_path / "stormy") == left_behind(tmp_path / "calm")
    assert met == {None, *(kind.name for kind in PASSING)}
    assert sum(result.cost["failed"].values()) == 0
    # A fault in three of ten attempts asks for 3/7 more; all that was sent is counted.
    retries = weather(tmp_path / "stormy")["retries"]
    assert 0.25 * calm < retries < 0.8 * calm  # on a busy machine some more take too long
    assert weather(tmp_path / "stormy")["sent"] == calm + retries
    assert weather(tmp_path / "calm") == {"sent": calm, "retries": 0, "from_disk": 0}


def test_calls_and_tokens_are_those_that_the_server_counted(tmp_path: Path) -> None:
    with serve_words() as server:
        result = start(server, tmp_path / "run")
        asked = chats(server)
    calls = result.cost["target_calls"]
    for name in SPLIT_NAMES:
        texts = {example.text for example in TASK.splits.part(name)}
        own = [seen for seen in asked if seen.body["messages"][-1]["content"] in texts]
        purpose = "training" if name == "train" else name
        assert calls[purpose] == len(own)
        # The fake's tokens are words; each label is one.
        words = sum(len(m["content"].split()) for seen in own for m in seen.body["messages"])
        assert result.cost["target_tokens"][purpose] == words + len(own)
        assert result.cost["target_written"][purpose] == len(own)


# --- on disk ---


def test_a_second_run_asks_nothing(dialect: str, tmp_path: Path) -> None:
    with serve_words(dialect) as server:
        start(server, tmp_path / "one")
    # Nobody is there any more.
    start(server, tmp_path / "two")
    assert left_behind(tmp_path / "two") == left_behind(tmp_path / "one")
    asked = weather(tmp_path / "two")
    assert (asked["sent"], asked["retries"]) == (0, 0)
    assert asked["from_disk"] >= weather(tmp_path / "one")["sent"] - 10  # but for its beginning


def test_another_seed_pays_only_for_what_is_new(tmp_path: Path) -> None:
    with serve_words() as server:
        start(server, tmp_path / "one")
        start(server, tmp_path / "two", seed=1)
        bodies = Counter(seen.body_hash for seen in server.requests)
    assert set(bodies.values()) == {1}
    # The seed prompt on test, at least.
    assert weather(tmp_path / "two")["from_disk"] >= len(TASK.test)


# --- killed ---


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize(
    "observer",
    [KillAfter(step=0), KillAfter(step=1), KillAfter(phase="reading")],
    ids=["after the first step", "after the last", "before the test"],
)
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, observer: Silence, cache: bool
) -> None:
    api = {"cache": cache}
    with serve_words() as server:
        with pytest.raises(Killed):
            start(server, tmp_path / "cut", api=api, observer=observer)
        build.resume(tmp_path / "cut")
        sent = Counter(seen.body_hash for seen in chats(server))
    with serve_words() as server:
        start(server, tmp_path / "whole", api=api)
        whole = {seen.body_hash for seen in chats(server)}
    assert left_behind(tmp_path / "cut") == left_behind(tmp_path / "whole")
    assert sent.keys() == whole
    if cache:  # without it only what came behind the last checkpoint is asked again
        assert set(sent.values()) == {1}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99], ids=["training", "selection", "last calls"])
def test_a_server_that_dies_and_comes_back(tmp_path: Path, share: float) -> None:
    patient = {"attempts": 3}
    with serve_words() as server:
        start(server, tmp_path / "whole", api={**patient, "cache": False})
        calls = len(chats(server))

    last = round(share * calls)

    def dies(seen: Seen) -> Fault | None:
        if seen.number == last:
            threading.Thread(target=server.close).start()
        return HANG if seen.number >= last else None  # until the connection ends

    with serve_words(faults=dies) as server:
        with pytest.raises(TargetError, match=r"cannot be reached.*resume the run when it is up"):
            start(server, tmp_path / "cut", api=patient)
        assert not (tmp_path / "cut" / "result.json").exists()
        first = Counter(seen.body_hash for seen in chats(server))
        port = server.port
    with serve_words(port=port) as server:
        build.resume(tmp_path / "cut")
        again = Counter(seen.body_hash for seen in chats(server))
    assert left_behind(tmp_path / "cut") == left_behind(tmp_path / "whole")
    # What was under way when it died, 8 at most, is asked again, all else is not.
    assert len(first.keys() & again.keys()) <= 8
    assert (first | again).keys() == {*first, *again}
    assert sum(again.values()) <= calls - sum(first.values()) + 8


def test_a_server_that_only_fails_stops_the_run_and_no_figure_is_made_of_it(tmp_path: Path) -> None:
    down = threading.Event()

    def rule(seen: Seen) -> Fault | None:
        if seen.number == 60:
            down.set()
        return SERVER_ERROR if down.is_set() else None

    with serve_words(faults=rule) as server:
        with pytest.raises(TargetError, match=r"calls .* failed for good, .*500"):
            start(server, tmp_path / "cut", api={"attempts": 2})
        down.clear()
        build.resume(tmp_path / "cut")
    with serve_words() as server:
        start(server, tmp_path / "whole", api={"attempts": 2, "cache": False})
    assert left_behind(tmp_path / "cut") == left_behind(tmp_path / "whole")


# --- what never passes ---


def tally(server: ApiServer, inputs: Sequence[str]) -> int:
    """How often the server was asked about these."""
    return sum(seen.body["messages"][-1]["content"] in inputs for seen in chats(server))


def right(prompt: str, example: Example) -> bool:
    """What the server makes of it."""
    messages: Messages = [
        {"role": "system", "content": prompt},
        {"role": "user", "content": example.text},
    ]
    return answer(messages) == example.label


@pytest.mark.parametrize("split", SPLIT_NAMES)
@pytest.mark.parametrize("settings", [SHORT, PER_INPUT], ids=["one prompt", "per input"])
def test_an_example_that_is_never_answered_is_left_out_everywhere(
    tmp_path: Path, split: SplitName, settings: dict[str, Any]
) -> None:
    config = tiny_config(**settings)
    # One that a step asks about.
    drawn = draw_examples(TASK, config, 0).reward_examples[1]
    bad = drawn if split == "train" else TASK.splits.part(split)[4]
    with serve_words(faults=for_input(bad.text, CONTENT_FILTER)) as server:
        # Not ahead: what is refused then is asked once more, which the ledger does not count.
        result = start(server, tmp_path / "run", api={"ask_ahead": False}, **settings)
        refused = tally(server, [bad.text])
    purpose = "training" if split == "train" else split
    assert result.cost["failed"] == {
        **dict.fromkeys(result.cost["failed"], 0),
        purpose: refused,
    }
    assert refused > 0
    assert sum(result.cost["unmatched"].values()) == 0  # no answer is not one that names no label
    sizes = {name: len(TASK.splits.part(name)) - (name == split) for name in SPLIT_NAMES}
    assert (result.validation.n, result.seed_validation.n) == (sizes["validation"],) * 2
    assert {result.test.n, result.seed_test.n, result.paired.n} == {sizes["test"]}
    if result.per_input is not None:
        found = result.per_input
        assert {found.validation.n, found.fixed_validation.n} == {sizes["validation"]}
        assert {found.test.n, found.fixed_test.n, found.over_fixed.n} == {sizes["test"]}
        written = [line["input"] for line in read_lines(tmp_path / "run" / "writes.jsonl")]
        assert len(written) == sizes["test"]
        assert bad.text not in written
    no_made_up_reward(tmp_path / "run", bad, per_input=result.per_input is not None)


def no_made_up_reward(folder: Path, bad: Example, *, per_input: bool) -> None:
    """Each reward is the share of right answers of those that came; ratings know no other."""
    config = tiny_config(**PER_INPUT if per_input else SHORT)
    lines = [line for line in read_lines(folder / "prompts.jsonl") if line["fault"] is None]
    assert lines
    by_text = {e.text: e for name in SPLIT_NAMES for e in TASK.splits.part(name)}
    for line in lines:
        if per_input:
            examples = [by_text[line["written_for"]]]
            assert examples != [bad]
        elif line["scored_on"] == "training":
            examples = list(draw_examples(TASK, config, line["step"]).reward_examples)
        else:
            continue  # on a part of validation that the decision chose
        own = [right(line["prompt"], e) for e in examples if e != bad]
        assert line["reward"] == line["score"] == pytest.approx(sum(own) / len(own))
    [*_, last] = sorted((folder / "checkpoints").glob("step-*"))
    pool = json.loads((last / "state.json").read_text())["pool"]
    rated = {number for own in pool["seen"] for number, _ in own}
    assert pool["numbers"].get(identity(bad)) not in rated
    assert len(rated) > 5


def test_an_example_that_was_refused_once_is_not_asked_again_for_the_other_prompts(
    tmp_path: Path,
) -> None:
    bad = draw_examples(TASK, tiny_config(**SHORT), 0).reward_examples[0]
    with serve_words(faults=for_input(bad.text, CONTENT_FILTER)) as server:
        api = {"concurrency": 2}
        result = start(server, tmp_path / "run", steps=1, anchor={"update_period": 1}, api=api)
        prompts = {seen.body["messages"][0]["content"] for seen in chats(server)}
    # Of the step's seven prompts, each on six examples, eight conversations are sent at once: two
    # prompts come to this example, and the other five are spared it.
    assert len(prompts) >= 7
    assert result.cost["failed"]["training"] == 2


def test_a_prompt_that_the_server_filters_takes_no_example_from_the_others(
    tmp_path: Path,
) -> None:
    with serve_words() as server:
        start(server, tmp_path / "free", api={"cache": False})
    free = read_lines(tmp_path / "free" / "prompts.jsonl")
    first = [line["prompt"] for line in free if line["step"] == 0]
    odd = first[2]
    assert first.count(odd) == 1

    with serve_words(faults=refuse_prompts(lambda prompt: prompt == odd)) as server:
        result = start(server, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "prompts.jsonl")
    # It is in no line, and what the others earned in the first step is what they earned before.
    assert odd not in {line["prompt"] for line in lines}
    of_first = [line for line in lines if line["step"] == 0]
    assert of_first == [line for line in free if line["step"] == 0 and line["prompt"] != odd]
    assert result.cost["failed"]["training"] == 6
    assert len(read_lines(tmp_path / "run" / "steps.jsonl")) == 2


def refuse_prompts(where: Callable[[str], bool]) -> Faults:
    """Conversations with such a prompt, whatever the input."""

    def rule(seen: Seen) -> Fault | None:
        messages = seen.body.get("messages") or []
        return CONTENT_FILTER if len(messages) > 1 and where(messages[0]["content"]) else None

    return rule


@pytest.mark.parametrize("limits", [{}, {"max_target_calls": 10_000}], ids=["free", "limited"])
def test_a_step_of_which_no_prompt_was_answered_is_said(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    faults = refuse_prompts(lambda prompt: prompt != TASK.seed_prompt)
    with (
        serve_words(faults=faults) as server,
        pytest.raises(TargetError, match="answered none of the prompts"),
    ):
        start(server, tmp_path / "run", limits=limits)


def test_a_refused_prompt_is_not_asked_to_the_end_and_others_go_on(tmp_path: Path) -> None:
    task = make_task(size=400)  # 120 examples to validate on
    demonstrations = {"num_demonstrations": 2, "demonstration_sets": 6, "rounds": 1}
    settings: dict[str, Any] = {"method": "few-shot", "steps": 0, "selection": demonstrations}

    def go(server: ApiServer, name: str) -> TuneResult:
        config = tiny_config(**{**SHORT, **settings, "target": target_at(server)})
        return build.start_run(task, config, tmp_path / name, Silence())

    with serve_words() as server:
        go(server, "free")
        prompts = sorted({seen.body["messages"][0]["content"] for seen in chats(server)})
        refused = [prompt for prompt in prompts if prompt != task.seed_prompt][2:4]
    with serve_words(faults=refuse_prompts(lambda prompt: prompt in refused)) as server:
        result = go(server, "run")
        times = Counter(seen.body["messages"][0]["content"] for seen in chats(server))
    assert result.prompt not in refused
    assert all(0 < times[prompt] <= 64 for prompt in refused)
    assert result.cost["failed"]["validation"] == sum(times[prompt] for prompt in refused)


@pytest.mark.parametrize("rounds", [1, 2])
def test_demonstrations_that_the_server_filters_lose_and_the_run_ends(
    tmp_path: Path, rounds: int
) -> None:
    demonstrations = {"num_demonstrations": 2, "demonstration_sets": 6, "rounds": rounds}
    settings: dict[str, Any] = {"method": "few-shot", "steps": 0, "selection": demonstrations}
    with serve_words() as server:
        start(server, tmp_path / "free", **settings)
        prompts = {seen.body["messages"][0]["content"] for seen in chats(server)}
    shown = Counter(e.text for p in prompts for e in TASK.train if f"Input: {e.text}\n" in p)
    text = min(shown, key=lambda text: (shown[text], text))
    assert 1 <= shown[text] < 5  # of six
    faults = refuse_prompts(lambda prompt: f"Input: {text}\n" in prompt)
    with serve_words(faults=faults) as server:
        result = start(server, tmp_path / "run", **settings)
    assert f"Input: {text}\n" not in result.prompt
    assert result.validation.n == result.test.n == 12
    assert result.cost["failed"]["validation"] > 0


def test_what_the_target_says_of_no_label_is_wrong_and_counted(tmp_path: Path) -> None:
    mute = {TASK.splits.part(name)[0].text: name for name in SPLIT_NAMES}

    def shy(messages: Messages) -> str:
        return "That is hard." if messages[-1]["content"] in mute else answer(messages)

    with serve_words(answer=shy) as server:
        result = start(server, tmp_path / "run", steps=4)
        asked = {name: tally(server, [text]) for text, name in mute.items()}
    unmatched = result.cost["unmatched"]
    assert unmatched["training"] == asked["train"] > 0
    assert unmatched["validation"] == asked["validation"] > 0
    assert unmatched["test"] == asked["test"] > 0
    assert sum(result.cost["failed"].values()) == 0
    for found in json.loads((tmp_path / "run" / "test.json").read_text())["prompts"]:
        assert (found["predictions"][0], found["values"][0]) == ("", 0.0)
        assert "" not in found["predictions"][1:]


# --- the key ---

# It says the key again where it refuses one input.
ECHO = Fault("echo", lambda _: error_reply(400, f"Key {KEY} may not ask this."))


def sometimes(fault: Fault) -> Faults:
    """After a while, for ever: what may pass must have passed at first."""
    return lambda seen: fault if seen.number > 30 else None


CASES: dict[str, Faults | None] = {
    "good": None,
    "401": None,
    "500s from the start": always(SERVER_ERROR),
    "500s": sometimes(SERVER_ERROR),
    "malformed JSON from the start": always(HALF_JSON),
    "malformed JSON": sometimes(HALF_JSON),
    "some of all": random_faults(0.3, 3, kinds=PASSING),
    "it says the key": for_input(TASK.test[0].text, ECHO),
    "it only says the key": sometimes(ECHO),
}
FINE = ("good", "some of all", "it says the key")


def whole_chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it came from, what is not shown included."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one is not None and one not in seen:
            seen.append(one)
            left += [one.__cause__, one.__context__]
    yield from seen


@pytest.mark.parametrize("case", CASES)
def test_the_key_is_nowhere(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("openai", "httpx", "httpcore", "asyncio", "tenacity"):
        caplog.set_level(logging.DEBUG, logger=name)
    caplog.set_level(logging.DEBUG)
    key = "another-key" if case == "401" else KEY
    told = ""
    with serve_words(api_key=key, faults=CASES[case]) as server:
        try:
            start(server, tmp_path / "run", api={"attempts": 6, "timeout_seconds": 0.3})
        except TargetError as error:
            for one in whole_chain(error):
                told += repr(one) + str(one) + repr(one.args) + repr(vars(one))
                told += "".join(traceback.format_exception(one))
        sent = [seen.authorization for seen in server.requests]
    assert sent
    assert set(sent) == {f"Bearer {KEY}"}  # it was there to be told
    assert bool(told) is (case not in FINE)
    captured = capfd.readouterr()
    logged = caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert logged
    told += captured.out + captured.err + logged
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    for part in (KEY, "canary"):
        assert part not in told
        assert part.encode() not in content
    assert files or case not in FINE


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    with serve_words() as server:
        start(server, tmp_path / "run")
        asked = len(server.requests)
        with pytest.raises(RunError, match="is finished"):
            build.resume(tmp_path / "run")
        assert len(server.requests) == asked
