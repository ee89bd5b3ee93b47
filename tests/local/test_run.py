"""`python -m local run` as a user meets it: what it starts, it stops, however it is told to."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from local.host.ports import LOOPBACK, free_port
from local.paths import DEV_VARS, REPOSITORY
from local.setup.dev_vars import read_dev_vars

START_SECONDS = 60
STOP_SECONDS = 30


@contextmanager
def _new_state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="marketplace-run-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def state() -> Iterator[Path]:
    with _new_state() as folder:
        yield folder


@contextmanager
def _running(state: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "local", "run", f"--port={port}", f"--state={state}"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        _wait(lambda: not _processes_of(state), "the guardians end what a killed owner started")


def _wait_until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("Ready: "):
            return line
    raise AssertionError("it ended before it was ready:\n" + "".join(seen))


def _processes_of(state: Path) -> list[int]:
    """Every process whose command line or environment names the state folder."""
    mark = str(state).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            facts = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue  # it has just ended
        if mark in facts:
            found.append(int(entry.name))
    return found


def _wait(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + STOP_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {STOP_SECONDS} s: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_stop_signal_ends_everything(state: Path, stop_signal: signal.Signals) -> None:
    port = free_port()
    with _running(state, port) as process:
        assert f"http://{LOOPBACK}:{port}" in _wait_until_ready(process)
        assert httpx.get(f"http://{LOOPBACK}:{port}/api/v1/health", trust_env=False).is_success
        assert len(_processes_of(state)) > 3
        process.send_signal(stop_signal)
        assert process.wait(STOP_SECONDS) == 0
        assert _processes_of(state) == []


def test_nothing_outlives_a_killed_owner(state: Path) -> None:
    with _running(state, free_port()) as process:
        _wait_until_ready(process)
        process.kill()
        _wait(lambda: not _processes_of(state), "the guardians end what they guard")


def _next_line(process: subprocess.Popen[str], part: str) -> str:
    """The next line that says something; those before it are dropped. Ends it if none comes."""
    assert process.stdout is not None
    limit = threading.Timer(START_SECONDS, process.kill)
    limit.start()
    try:
        return next(line for line in process.stdout if part in line)
    except StopIteration:
        pytest.fail(f"no line with {part!r}")
    finally:
        limit.cancel()


def test_verdicts_that_a_stop_took_out_of_the_queue_are_carried_out_by_the_first_check(
    state: Path,
) -> None:
    names = [f"Interrupted {number}" for number in range(40)]
    port = free_port()
    with _running(state, port) as process, _client(process, port) as client:
        ids = [_submit(client, name) for name in names]
        results = [{"submissionId": id_, "verdict": "PASS", "score": 90} for id_ in ids]
        answer = client.post("/api/v1/webhooks/scan-results", json={"results": results})
        process.kill()
        assert answer.json()["accepted"] == ids
        process.wait()
        _wait(lambda: not _processes_of(state), "the guardians end what they guard")
    with _running(state, port) as process, _client(process, port) as client:
        report = _next_line(process, '"event":"scheduled-run-finished"')
        assert f'"askedAgain":{len(ids)}' in report
        _wait(lambda: _total(client, "interrupted") == len(ids), "all are published")


def _submit(client: httpx.Client, name: str) -> str:
    body = {"repoUrl": f"https://github.com/{name.replace(' ', '-')}/tools", "skillName": name}
    id_: str = client.post("/api/v1/submissions", json=body).json()["id"]
    return id_


def _total(client: httpx.Client, word: str) -> int:
    total: int = client.get("/api/v1/skills", params={"search": word}).json()["total"]
    return total


@contextmanager
def _client(process: subprocess.Popen[str], port: int) -> Iterator[httpx.Client]:
    """An operator, who is not limited, once it is ready."""
    _wait_until_ready(process)
    key = read_dev_vars(DEV_VARS)["INTERNAL_KEY"].split(",")[0].rpartition(":")[2]
    with httpx.Client(
        base_url=f"http://{LOOPBACK}:{port}",
        headers={"X-Internal-Key": key},
        timeout=START_SECONDS,
        trust_env=False,
    ) as client:
        yield client


def test_a_killed_postgres_is_started_again_and_said_so_in_one_line(state: Path) -> None:
    port = free_port()
    with _running(state, port) as process, _client(process, port) as client:
        whole = client.get("/api/v1/skills").json()
        pid = _postmaster(state)
        os.kill(pid, signal.SIGKILL)
        line = _next_line(process, "PostgreSQL")
        assert line == "PostgreSQL ended by itself; it is started again\n"
        _wait(lambda: client.get("/api/v1/skills").json() == whole, "PostgreSQL answers again")
        assert _postmaster(state) != pid
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_SECONDS) == 0
        assert process.stdout is not None
        assert "ended by itself" not in process.stdout.read()
        assert _processes_of(state) == []


def _postmaster(state: Path) -> int:
    return int((state / "postgres" / "data" / "postmaster.pid").read_text().split()[0])


def test_it_can_be_stopped_half_way_and_started_again(state: Path) -> None:
    with _running(state, free_port()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Starting PostgreSQL" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
        assert _processes_of(state) == []
    with _running(state, free_port()) as process:
        _wait_until_ready(process)


@pytest.fixture(scope="class")
def running() -> Iterator[tuple[Path, int]]:
    """The state folder and the port of one that runs."""
    with _new_state() as state:
        port = free_port()
        with _running(state, port) as process:
            _wait_until_ready(process)
            yield state, port


class TestWhileItRuns:
    def test_the_demo_publishes_to_it(self, running: tuple[Path, int]) -> None:
        _, port = running
        demo = [sys.executable, "-m", "local", "demo", "--count=3", f"--port={port}"]
        subprocess.run(demo, cwd=REPOSITORY, check=True, timeout=START_SECONDS)
        listing = httpx.get(f"http://{LOOPBACK}:{port}/api/v1/skills?search=demo", trust_env=False)
        assert listing.json()["total"] == 3

    def test_a_second_one_on_the_same_state_is_refused_with_a_sentence(
        self, running: tuple[Path, int]
    ) -> None:
        state, _ = running
        with _running_to_its_end(state, free_port()) as (code, output):
            assert code == 1
            assert "already running" in output
            assert "Traceback" not in output


def test_a_busy_port_is_refused_with_a_sentence(state: Path) -> None:
    with socket.socket() as occupant:
        occupant.bind((LOOPBACK, 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        with _running_to_its_end(state, port) as (code, output):
            assert code == 1
            assert f"port {port}" in output
            assert "PORT=" in output
            assert "Traceback" not in output


@contextmanager
def _running_to_its_end(state: Path, port: int) -> Iterator[tuple[int, str]]:
    result = subprocess.run(
        [sys.executable, "-m", "local", "run", f"--port={port}", f"--state={state}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    yield result.returncode, result.stdout + result.stderr
