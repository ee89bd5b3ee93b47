"""Runs one program and makes sure that it does not outlive its owner.

    python guardian.py --signal SIGINT --grace 10 [--user nobody] -- program arguments…

A process killed with SIGKILL cannot stop its children. So each server runs under a guardian, whose
standard input is a pipe that the owner holds open. When the pipe closes, the guardian sends the
program `--signal`, waits up to `--grace` seconds, and then kills its process group. The program's
standard input is a pipe too, which the guardian holds open: it closes if the guardian is killed.

Exits with the program's exit code. Uses the standard library only and starts in milliseconds.
"""

import argparse
import contextlib
import os
import selectors
import signal
import subprocess
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.2


def main() -> int:
    """Runs the program given on the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds")
    parser.add_argument("--user", default=None)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    stop_signal = signal.Signals[options.signal]

    stop_asked = False

    def ask_to_stop(_number: int, _frame: types.FrameType | None) -> None:
        nonlocal stop_asked
        stop_asked = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)

    drop_to = {} if options.user is None else {"user": options.user, "extra_groups": []}
    child = subprocess.Popen(
        options.command,
        stdin=subprocess.PIPE,
        start_new_session=True,
        **drop_to,
    )
    try:
        _wait_for_end(child, lambda: stop_asked)
        if child.poll() is None:
            child.send_signal(stop_signal)
            try:
                child.wait(options.grace)
            except subprocess.TimeoutExpired:
                print(f"{options.command[0]} did not stop; killing it", file=sys.stderr)
    finally:
        _kill_group(child.pid)
        child.wait()
    return child.returncode


def _wait_for_end(child: "subprocess.Popen[bytes]", stop_asked: "Callable[[], bool]") -> None:
    """Returns when the child has ended, standard input has closed, or a stop was asked for."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while child.poll() is None and not stop_asked():
            if selector.select(POLL_SECONDS) and not os.read(sys.stdin.fileno(), 4096):
                return


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended by itself
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
