"""Coroutine tests without a plugin."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, object]], object]


def run_coroutine_test(test: pytest.Function, run: Run) -> bool | None:
    """For the hook ``pytest_pyfunc_call``: let ``run`` run a coroutine test to its end.

    True when it was one, None for any other test. Of a test of Hypothesis each example is run.
    """
    examples = getattr(test.obj, "hypothesis", None)
    if examples is not None and inspect.iscoroutinefunction(examples.inner_test):
        examples.inner_test = _in_a_loop(examples.inner_test, run)
    if not inspect.iscoroutinefunction(test.obj):
        return None
    run(test.obj(**{name: test.funcargs[name] for name in test._fixtureinfo.argnames}))
    return True


def _in_a_loop(
    example: Callable[..., Coroutine[Any, Any, object]], run: Run
) -> Callable[..., object]:
    @functools.wraps(example)
    def call(*args: object, **named: object) -> object:
        return run(example(*args, **named))

    return call


def in_real_time(seconds: float) -> Run:
    """Runs each in an event loop of its own; it fails after the deadline."""
    return lambda coroutine: asyncio.run(asyncio.wait_for(coroutine, seconds))
