"""Coroutine tests without a plugin."""

import asyncio
import inspect

import pytest


def run_coroutine_test(test: pytest.Function, seconds: float) -> bool | None:
    """For the hook ``pytest_pyfunc_call``: run a coroutine test in an event loop of its own.

    True when it was one, None for any other test; it fails after the deadline.
    """
    if not inspect.iscoroutinefunction(test.obj):
        return None
    arguments = {name: test.funcargs[name] for name in test._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(test.obj(**arguments), seconds))
    return True
