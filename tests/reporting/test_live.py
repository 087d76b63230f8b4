"""Served on the loopback interface only, one address, under its own names, quiet to the end."""

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stableprompt.errors import RunError
from stableprompt.reporting.live import LiveServer
from tests.reporting import folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folders.unfinished(tmp_path / "run")


@pytest.fixture
def server(folder: Path) -> Iterator[LiveServer]:
    with LiveServer([folder]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: LiveServer, path: str = "/", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode("utf-8")
    connection.close()
    return answer, text


def test_it_listens_on_loopback_alone(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address.startswith("http://127.0.0.1:")


def test_the_page_is_served_until_nothing_is_new(server: LiveServer, folder: Path) -> None:
    answer, html = ask(server)
    assert (answer.status, answer.getheader("Cache-Control")) == (200, "no-store")
    assert "unfinished: 6 of 6 steps" in html
    assert "frame-ancestors 'none'" in str(answer.getheader("Content-Security-Policy"))
    version = str(answer.getheader("ETag"))
    again, nothing = ask(server, If_None_Match=version)
    assert (again.status, nothing) == (304, "")
    with (folder / "steps.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "target_calls": 280}\n')
    fresh, html = ask(server, If_None_Match=version)
    assert fresh.status == 200
    assert "unfinished: 7 of 6 steps" in html


def test_a_site_that_points_its_name_here_reads_nothing(server: LiveServer) -> None:
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", ""):
        answer, text = ask(server, Host=host)
        assert answer.status == 403
        assert "unfinished" not in text
    assert ask(server, Host=f"localhost:{server.server_port}")[0].status == 200


@pytest.mark.parametrize(
    "path",
    ["/config.json", "/../task.json", "/%2e%2e/task.json", "//config.json", "/x?/", "*"],
)
def test_there_is_no_other_path(server: LiveServer, path: str) -> None:
    answer, text = ask(server, path)
    assert answer.status == 404
    assert text == "there is one page here: /\n"


def test_nothing_can_be_sent(server: LiveServer) -> None:
    assert ask(server, method="POST")[0].status == 501
    head, body = ask(server, method="HEAD")
    assert (head.status, body) == (200, "")


def test_a_folder_that_is_gone_is_said_in_one_line(server: LiveServer, folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    answer, text = ask(server)
    assert answer.status == 503
    assert "is not a folder" in text


def test_a_port_that_is_taken_is_refused_in_one_line(server: LiveServer, folder: Path) -> None:
    with pytest.raises(RunError, match=f"port {server.server_port} .* cannot be used"):
        LiveServer([folder], server.server_port)


def test_ctrl_c_ends_it_quietly(folder: Path) -> None:
    program = [sys.executable, "-u", "-m", "stableprompt", "watch", str(folder)]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as watch:
        assert watch.stdout is not None and watch.stderr is not None
        assert watch.stdout.readline().startswith("http://127.0.0.1:")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=20) == 0
        assert watch.stderr.read() == ""
