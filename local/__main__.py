"""The command line, `python -m local …`. `make help` lists the ways in."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from local.demo import publish_demo_skills
from local.errors import LocalError
from local.host.ports import LOOPBACK
from local.host.processes import StopRequested, stop_on_signals
from local.host.run import DEFAULT_PORT, run_marketplace
from local.host.state import DEFAULT_STATE, StateFolder
from local.setup.locks import compile_locks
from local.setup.prepare import prepare
from local.setup.steps import Progress

# One of them runs the tests of the Worker (tests/conftest.py), which mostly wait for it.
TEST_PROCESSES = str(min(os.cpu_count() or 1, 4) + 1)

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@cli.command()
def run(
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65535)] = DEFAULT_PORT,
    state: Annotated[Path, typer.Option(help="Keeps the data")] = DEFAULT_STATE.root,
) -> None:
    """Sets up whatever is missing and serves the marketplace until Ctrl-C."""
    run_marketplace(Progress(), StateFolder(state.resolve()), port)


@cli.command()
def demo(
    count: Annotated[int, typer.Option(min=1, max=100_000)] = 300,
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65535)] = DEFAULT_PORT,
) -> None:
    """Publishes generated skills to the running marketplace and waits until they are listed."""
    publish_demo_skills(f"http://{LOOPBACK}:{port}", count)


@cli.command()
def lock() -> None:
    """Compiles the lock files anew."""
    compile_locks()


@cli.command()
def setup() -> None:
    """Only sets up: packages and runtime bundle."""
    prepare(Progress())


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Sets up and runs pytest, on several cores, with the arguments given."""
    prepare(Progress())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-n", TEST_PROCESSES, *context.args])  # noqa: S606


def main() -> int:
    """Exit code 0 after a stop that was asked for, 1 with a sentence when the user must act."""
    try:
        with stop_on_signals():
            cli()  # ends by SystemExit
    except StopRequested:
        print("Stopped.")
    except LocalError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
