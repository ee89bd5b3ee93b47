"""What the routes take from a request besides its parameters: the invocation's Env."""

from typing import Annotated

from fastapi import Depends, Header, Request

from marketplace.ports.env import Env
from marketplace.web.auth import Principal, Unauthenticated, authenticate, describe_unusable_secrets


def env_of(request: Request) -> Env:
    """The Env that the entry point put into the request's scope."""
    env: Env = request.scope["env"]
    return env


async def _env(request: Request) -> Env:  # async: FastAPI runs plain functions in threads
    return env_of(request)


CurrentEnv = Annotated[Env, Depends(_env)]


async def require_operator(
    env: CurrentEnv,
    x_internal_key: Annotated[str | None, Header()] = None,
    authorization: Annotated[str | None, Header()] = None,
) -> Principal:
    """Let operators and scanners in. Raises Unauthenticated or Forbidden.

    Logs secrets that count as unset where that may be why nobody gets in.
    """
    try:
        return authenticate(
            env.settings, internal_key=x_internal_key, authorization=authorization, now=env.clock()
        )
    except Unauthenticated:
        for sentence in describe_unusable_secrets(env.settings):
            env.log("secret-unusable", level="error", detail=sentence)
        raise


Operator = Annotated[Principal, Depends(require_operator)]


async def recognize_operator(
    env: CurrentEnv,
    x_internal_key: Annotated[str | None, Header()] = None,
    authorization: Annotated[str | None, Header()] = None,
) -> Principal | None:
    """The operator or scanner; None without a credential. Raises Unauthenticated or Forbidden."""
    if x_internal_key is None and authorization is None:
        return None
    return await require_operator(env, x_internal_key, authorization)


Caller = Annotated[Principal | None, Depends(recognize_operator)]
