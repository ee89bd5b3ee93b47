"""What the routes take from a request besides its parameters: the invocation's Env."""

from typing import Annotated

from fastapi import Depends, Header, Request

from marketplace.ports.env import Env
from marketplace.ports.principal import Principal, Role
from marketplace.web.auth import (
    Forbidden,
    Unauthenticated,
    authenticate,
    describe_unusable_secrets,
)


def env_of(request: Request) -> Env:
    """The Env that the entry point put into the request's scope."""
    env: Env = request.scope["env"]
    return env


async def _env(request: Request) -> Env:  # async: FastAPI runs plain functions in threads
    return env_of(request)


CurrentEnv = Annotated[Env, Depends(_env)]


async def require_credential(
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


OperatorOrScanner = Annotated[Principal, Depends(require_credential)]


async def require_operator(principal: OperatorOrScanner) -> Principal:
    """Let operators in. Raises Unauthenticated or Forbidden."""
    if principal.role is not Role.OPERATOR:
        raise Forbidden("a scanner's key opens /api/v1/webhooks/ alone; this needs an operator's")
    return principal


Operator = Annotated[Principal, Depends(require_operator)]


async def recognize_caller(
    env: CurrentEnv,
    x_internal_key: Annotated[str | None, Header()] = None,
    authorization: Annotated[str | None, Header()] = None,
) -> Principal | None:
    """The operator or scanner; None without a credential. Raises Unauthenticated or Forbidden."""
    if x_internal_key is None and authorization is None:
        return None
    return await require_credential(env, x_internal_key, authorization)


Caller = Annotated[Principal | None, Depends(recognize_caller)]
