"""Makes .venv from the lock file. Runs with any Python 3, before anything is installed.

    python3 local/bootstrap.py          install what is missing
    python3 local/bootstrap.py clean    remove everything that set-up and runs have made

Standard library only, and no syntax newer than Python 3.6: an old interpreter must get as far as
the sentence that says it is too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from typing import NoReturn

REPOSITORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(REPOSITORY, ".venv")
LOCK = os.path.join(REPOSITORY, "requirements", "dev.lock")
STAMP = os.path.join(VENV, "skill-marketplace.stamp")
MINIMUM = (3, 11)
# The real one: with .venv activated, `python3` is a link inside the folder that is made anew.
INTERPRETER = os.path.realpath(sys.executable)

RUN_LOCK = os.path.join(REPOSITORY, ".local", "state", "lock")
# For what PostgreSQL needs elsewhere when root works in a folder that others cannot enter.
OUTSIDE = "/var/lib/skill-marketplace-" + hashlib.sha256(REPOSITORY.encode()).hexdigest()[:12]

MADE_BY_US = [
    ".venv",
    ".local",
    "node_modules",
    "python_modules",
    ".venv-workers",
    ".wrangler",
    ".dev.vars",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    "uv.lock",
]


def say(text: str) -> None:
    print(text, flush=True)


def fail(sentence: str) -> NoReturn:
    sys.exit("\n" + sentence)


def fingerprint() -> str:
    """Changes with the lock file and with the interpreter that the environment is made from."""
    with open(LOCK, "rb") as file:
        digest = hashlib.sha256(file.read())
    digest.update((sys.version + INTERPRETER).encode())
    return digest.hexdigest()


def up_to_date() -> bool:
    try:
        with open(STAMP) as file:
            return file.read() == fingerprint()
    except FileNotFoundError:
        return False


def check_python() -> None:
    if sys.version_info < MINIMUM:
        fail(
            "Python {}.{} or newer is needed; {} is {}.{}. "
            "Name another one, for example: make PYTHON=python3.12".format(
                *MINIMUM, sys.executable, *sys.version_info[:2]
            )
        )
    try:
        import ensurepip
        import venv
    except ImportError:
        fail(
            "This Python has no venv. On Debian or Ubuntu: apt-get install python3-venv "
            "(as root); then try again."
        )
    del ensurepip, venv


def install() -> None:
    say("… Making .venv with the pinned tools (about half a minute, once)")
    # A half-made environment has no stamp, and is made anew from nothing.
    shutil.rmtree(VENV, ignore_errors=True)
    commands = [
        [INTERPRETER, "-m", "venv", VENV],
        [
            os.path.join(VENV, "bin", "python"),
            *["-m", "pip", "install", "--disable-pip-version-check", "-qq"],
            *["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", LOCK],
        ],
    ]
    for command in commands:
        if subprocess.call(command, stdin=subprocess.DEVNULL) != 0:
            fail("Could not make .venv; the lines above say why. It is safe to try again.")
    with open(STAMP + ".tmp", "w") as file:
        file.write(fingerprint())
    os.replace(STAMP + ".tmp", STAMP)


def clean() -> None:
    """Removes what .gitignore lists, and what PostgreSQL needed elsewhere."""
    if os.path.exists(RUN_LOCK):
        import fcntl

        with open(RUN_LOCK) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fail("The marketplace is running. Stop it first (Ctrl-C in its terminal).")
    for path in [os.path.join(REPOSITORY, name) for name in MADE_BY_US] + [OUTSIDE]:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)
    for folder, folders, _ in os.walk(REPOSITORY):
        for name in [name for name in folders if name == "__pycache__"]:
            shutil.rmtree(os.path.join(folder, name))
            folders.remove(name)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["clean"]:
            clean()
        else:
            check_python()
            if not up_to_date():
                install()
    except KeyboardInterrupt:
        fail("Interrupted. It is safe to start again.")
