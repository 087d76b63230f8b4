"""One of the processes of ``tests/test_several_processes.py``; takes a folder and a model,
and whether the processes hold the agent together.

What is compared with one process is compared here where a process alone can be asked, too.
"""

import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch

from stableprompt.errors import ConfigError, DataError, RunError, RunStopped
from stableprompt.llm_config import ApiConfig, LimitsConfig, TargetConfig
from stableprompt.models.adapters import Role
from stableprompt.models.ranks import Ranks, leave_others
from stableprompt.models.shared_agent import SharedAgent
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.function import FunctionTarget
from stableprompt.models.targets.interface import Usage
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.shared import SharedTarget
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.limits import Limits
from stableprompt.tuning.randomness import derive_uniforms
from stableprompt.tuning.records import Silence
from tests.fakes.agents import MESSAGES, make_agent
from tests.fakes.api_server import ApiServer
from tests.several.runs import resume_words, run_locally, run_words, run_writers
from tests.several.splitting import check_split


def check_ranks(ranks: Ranks) -> None:
    me = ranks.number
    assert (ranks.count, ranks.first) == (2, me == 0)
    assert ranks.each(lambda: me) == [0, 1]
    assert ranks.agree(me) == 0
    assert ranks.any(me == 1) and not ranks.any(False)
    assert ranks.first_keeps(lambda: "kept") == (None if me else "kept")
    assert [sorted(part) for part in ranks.each(lambda: ranks.share(5))] == [[0, 1], [2, 3, 4]]
    [one, two] = ranks.add([torch.tensor([[1.0 + me]]), torch.tensor([2.0, 3.0])])
    assert one.tolist() == [[3.0]] and two.tolist() == [4.0, 6.0]

    def fails() -> int:
        if me == 1:
            raise DataError("of the second")
        return 0

    with pytest.raises(DataError, match="of the second"):  # in both
        ranks.each(fails)

    def fails_first() -> int:
        raise ConfigError("of the first")

    with pytest.raises(ConfigError, match="of the first"):
        ranks.first_does(fails_first)
    ranks.require_same("numbers", lambda: 7)
    with pytest.raises(RunError, match="do not have the same numbers"):
        ranks.require_same("numbers", lambda: me)


def check_agent(ranks: Ranks) -> None:
    alone = make_agent()
    shared = SharedAgent(alone, ranks)
    query, uniforms = alone.query_ids(MESSAGES), derive_uniforms(1, rows=5, length=8)
    wanted = alone.sample(query, uniforms)
    for count in (5, 1):  # of one row the first process has none
        found = shared.sample(query, uniforms[:count])
        assert found.texts == wanted.texts[:count]
        assert found.truncated == wanted.truncated[:count]
        width = found.ids.shape[1]
        assert torch.equal(found.mask, wanted.mask[:count, :width])
        assert torch.equal(found.ids, wanted.ids[:count, :width])
        assert not wanted.mask[:count, width:].any()
    judged = shared.evaluate(query, wanted.ids, wanted.mask, role=Role.POLICY)
    right = alone.evaluate(query, wanted.ids, wanted.mask, role=Role.POLICY)
    torch.testing.assert_close(judged.logprobs, right.logprobs)
    torch.testing.assert_close(judged.entropies, right.entropies)
    torch.testing.assert_close(judged.values, right.values)
    texts = ["Sort it.", "xq zzv", "Read the text"]
    assert shared.surprisals(texts) == alone.surprisals(texts)


def check_targets(ranks: Ranks) -> None:
    alone = LocalTarget(make_agent().loaded)
    shared = SharedTarget(alone, ranks)
    asked = [
        [{"role": "system", "content": prompt}, {"role": "user", "content": text}]
        for prompt in ("Say what colour it is.", "Say it")
        for text in ("red", "a green one", "green")
    ]
    words = [["red", "green"] if n % 2 else ["red", "green", "blue"] for n in range(len(asked))]
    for count in (6, 5, 1):
        found, wanted = (t.label_scores(asked[:count], words[:count]) for t in (shared, alone))
        torch.testing.assert_close(found.label_probs, wanted.label_probs)
        assert found.usage == wanted.usage  # what the two halves share is counted once
    assert shared.generate(asked, 3) == alone.generate(asked, 3)

    def answer(messages: list[dict[str, str]]) -> str:
        if messages[-1]["content"] == "a green one":
            raise ValueError("not that one")
        return messages[-1]["content"]

    calls = FunctionTarget(answer, ApiConfig(attempts=1))
    ours = SharedTarget(calls, ranks)
    told = ours.generate(asked, 3)
    assert told.texts == ("red", "", "green", "red", "", "green")
    assert sorted(told.failed) == [1, 4]
    assert ours.requests["sent"] == 6 and calls.requests["sent"] == 3
    assert ours.at_once == 32  # 16 a process
    calls.close()


def _last(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"]


def check_replicas(ranks: Ranks) -> None:
    """Each process asks both servers; what was sent is told of all, server by server."""
    with ExitStack() as held:
        servers = [held.enter_context(ApiServer(_last)) for _ in range(2) if ranks.first]
        urls = ranks.agree([server.base_url for server in servers])
        config = TargetConfig.model_validate({"model": "fake-model", "api": {"base_url": urls}})
        shared = SharedTarget(ApiTarget(config, AnswerCache(None)), ranks)
        held.enter_context(closing(shared))
        asked = [[{"role": "user", "content": f"Say {number}"}] for number in range(20)]
        assert len(shared.generate(asked, 4).texts) == len(asked)
        told = shared.requests
        came = ranks.agree([len(server.requests) for server in servers])
        assert [told["replicas"][url]["sent"] for url in urls] == came
        assert told["sent"] == sum(came) > len(asked)


def check_limits(ranks: Ranks) -> None:
    """The clocks of two machines, one of them far ahead: the first one's counts."""
    now = [0.0]
    limits = Limits(LimitsConfig(max_seconds=60), clock=lambda: now[0])
    limits.agree = ranks.agree
    now[0], limits.waited, limits.steps = 50.0 * (1 + ranks.number), 25.0, 1
    ledger = Ledger()
    ledger.add_target(Purpose.TRAINING, Usage(10, 0), calls=10)
    assert limits.room(ledger, Purpose.TEST) == 4  # 10 s left, 2.5 s a call
    assert not limits.time_for_step()  # 25 s the last one


class Stops(Silence):
    def __init__(self, wants: bool) -> None:
        self._wants = wants

    def stop_asked(self) -> bool:
        return self._wants


def main() -> None:
    folder, model = Path(sys.argv[1]), Path(sys.argv[2])
    ranks = Ranks.launched()
    assert ranks.split == ("split" in sys.argv[3:])
    if ranks.split:
        check_split(ranks, model)
    else:
        check_whole(ranks)
        with pytest.raises(RunStopped):  # both, though one was asked
            run_words(folder / "stopped", Stops(ranks.number == 1))
        run_words(folder / "words")
        run_writers(folder / "writers")
        resume_words(folder / "cut")
    for kind in ("labels", "texts", "inputs"):
        run_locally(folder / kind, model, kind)
    leave_others()


def check_whole(ranks: Ranks) -> None:
    """Of an agent that each process holds."""
    check_ranks(ranks)
    check_agent(ranks)
    check_targets(ranks)
    check_replicas(ranks)
    check_limits(ranks)


if __name__ == "__main__":
    main()
