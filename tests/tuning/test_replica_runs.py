"""Whole runs with several servers behind one target: no figure depends on who answered."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stableprompt import build
from stableprompt.errors import RunError, TargetError
from tests.fakes.api_faults import HANG, Fault, Faults, Seen
from tests.fakes.api_server import ApiServer
from tests.fakes.word_server import chats, serve_words
from tests.tuning.test_api_runs import left_behind, start, weather

pytestmark = pytest.mark.usefixtures("elsewhere")


def at(*servers: ApiServer, **api: Any) -> dict[str, Any]:
    return {"base_url": [server.base_url for server in servers], "cache": False, **api}


def taking(seconds: float) -> Faults:
    return lambda seen: time.sleep(seconds)


def dying(servers: list[ApiServer], number: int, last: int) -> Faults:
    """Closes one of the servers when it has got so many requests."""

    def rule(seen: Seen) -> Fault | None:
        if seen.number == last:
            threading.Thread(target=servers[number].close).start()
        return HANG if seen.number >= last else None  # until the connection ends

    return rule


def alone(folder: Path, dialect: str = "written answers") -> int:
    """The run with one server; how many requests that took."""
    with serve_words(dialect) as server:
        start(server, folder, api={"cache": False})
        return len(server.requests)


@pytest.mark.parametrize(
    ("dialect", "share"), [("written answers", 0.1), ("top tokens", 0.5), ("token ids", 0.9)]
)
def test_a_replica_killed_in_the_middle_changes_no_figure(
    tmp_path: Path, dialect: str, share: float
) -> None:
    asked = alone(tmp_path / "one", dialect)
    servers: list[ApiServer] = []
    rules = taking(0.004), dying(servers, 1, round(share * asked / 3)), taking(0.001)
    servers += [serve_words(dialect, faults=rule) for rule in rules]
    with servers[0], servers[1], servers[2]:
        start(servers[0], tmp_path / "three", api=at(*servers, attempts=1))
    assert left_behind(tmp_path / "three") == left_behind(tmp_path / "one")
    told: Any = weather(tmp_path / "three")["replicas"]
    assert told[servers[1].base_url]["set_aside"] == 1
    # All that came was sent; what was sent to the one that died need not have come.
    for server in servers:
        assert told[server.base_url]["sent"] >= len(server.requests) > 3


def test_a_replica_killed_and_started_again_changes_no_figure(tmp_path: Path) -> None:
    asked = alone(tmp_path / "one")
    servers: list[ApiServer] = []
    servers += [serve_words(faults=dying(servers, 0, asked // 6)), serve_words(faults=taking(0.01))]
    back: list[ApiServer] = []

    def start_again() -> None:
        servers[0].closing.wait(60)
        time.sleep(0.3)
        back.append(serve_words(port=servers[0].port).__enter__())

    thread = threading.Thread(target=start_again)
    with servers[0], servers[1]:
        thread.start()
        start(servers[0], tmp_path / "two", api=at(*servers))
        thread.join()
    back[0].close()
    assert len(chats(back[0])) > 0
    assert left_behind(tmp_path / "two") == left_behind(tmp_path / "one")


def test_all_killed_stops_cleanly_and_is_resumed_at_other_addresses(tmp_path: Path) -> None:
    asked = alone(tmp_path / "one")
    servers: list[ApiServer] = []
    servers += [serve_words(faults=dying(servers, n, asked // 6)) for n in range(2)]
    with servers[0], servers[1], pytest.raises(TargetError, match=r"cannot be reached.*resume"):
        start(servers[0], tmp_path / "cut", api=at(*servers, attempts=3))
    assert not (tmp_path / "cut" / "result.json").exists()
    with serve_words() as new, serve_words() as other, serve_words() as third:
        urls = [server.base_url for server in (new, other, third)]
        build.resume(tmp_path / "cut", base_url=urls)
        assert all(chats(server) for server in (new, other, third))
    assert left_behind(tmp_path / "cut") == left_behind(tmp_path / "one")


def test_a_run_is_not_resumed_at_servers_that_tell_something_else(tmp_path: Path) -> None:
    servers: list[ApiServer] = []
    servers.append(serve_words(faults=dying(servers, 0, 60)))
    with servers[0], pytest.raises(TargetError, match="cannot be reached"):
        start(servers[0], tmp_path / "cut", api={"cache": False, "attempts": 2})
    with serve_words("top tokens") as other, pytest.raises(RunError, match="answers"):
        build.resume(tmp_path / "cut", base_url=other.base_url)


@pytest.mark.parametrize("limit", [150, 211])
def test_limits_are_as_exact_with_four_replicas(tmp_path: Path, limit: int) -> None:
    limits = {"max_target_calls": limit}
    with serve_words() as server:
        one = start(server, tmp_path / "one", api={"cache": False}, limits=limits)
    servers = [serve_words(faults=taking(0.002 * n)) for n in range(4)]
    with servers[0], servers[1], servers[2], servers[3]:
        four = start(servers[0], tmp_path / "four", api=at(*servers), limits=limits)
        sent = sum(len(chats(server)) for server in servers)
    assert sent == four.target_calls <= limit
    assert left_behind(tmp_path / "four") == left_behind(tmp_path / "one")
    assert one.target_calls == four.target_calls
