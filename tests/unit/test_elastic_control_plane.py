"""The door into a worker: asked over a real Unix socket, in a process of its own."""

import http.client
import json
import os
import socket
import subprocess
import sys

import pytest

WORKER = """
import os, sys
from rallypoint.elastic.control_plane import worker_main

def waits_here():
    print("ready", flush=True)
    sys.stdin.readline()

@worker_main()
def main():
    waits_here()
    raise ValueError("no more")

main()
"""


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("worker", timeout=20)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def ask(path, method, url):
    connection = Connection(path)
    connection.request(method, url)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def worker(tmp_path):
    path = str(tmp_path / "door")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    environ = os.environ | {"TORCH_WORKER_SERVER_SOCKET": path, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "error.json")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKER], env=environ, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process, path
        process.kill()


def test_it_answers_as_torchs_server(worker):
    _, path = worker
    assert ask(path, "POST", "/handler/ping") == (200, "pong")
    status, names = ask(path, "GET", "/handler/")
    assert status == 200 and json.loads(names) == ["dump_traceback", "ping"]
    assert ask(path, "GET", "/")[0] == 200
    assert ask(path, "GET", "/handler/ping")[0] == ask(path, "GET", "/x")[0] == 404
    assert ask(path, "POST", "/handler/nope") == (404, "Handler nope not found; there are dump_traceback, ping")


def test_it_shows_where_the_worker_is(worker):
    _, path = worker
    status, text = ask(path, "POST", "/handler/dump_traceback")
    assert status == 200 and "in waits_here" in text
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_the_end_is_recorded_and_the_door_removed(worker, tmp_path):
    process, path = worker
    _, err = process.communicate("\n", timeout=20)
    assert process.returncode == 1 and "ValueError: no more" in err
    assert not os.path.exists(path)
    assert "no more" in (tmp_path / "error.json").read_text()


def test_a_file_of_somebody_elses_is_not_replaced(tmp_path, monkeypatch):
    from rallypoint.elastic.control_plane import worker_main

    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("TORCH_WORKER_SERVER_SOCKET", str(tmp_path / "file"))
    with pytest.raises(OSError, match="in use"), worker_main():
        pass
    assert (tmp_path / "file").read_text() == "mine"
