"""Every authentication method, accepted and refused by a real server."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pgwire import ConnectionFailed, ConnectOptions, PostgresError, asyncio_stream

if TYPE_CHECKING:
    from tests.pgwire.conftest import Roles

METHODS = ["password", "md5", "scram"]


@pytest.mark.parametrize("method", ["trust", *METHODS])
async def test_method_lets_the_right_password_in(
    options: ConnectOptions, roles: "Roles", method: str
) -> None:
    role = getattr(roles, method)
    with await asyncio_stream.connect(
        replace(options, user=role, password=roles.secret)
    ) as connection:
        assert (await connection.query("SELECT current_user")).scalar() == role


@pytest.mark.parametrize("method", METHODS)
async def test_wrong_password_is_refused_with_its_sqlstate(
    options: ConnectOptions, roles: "Roles", method: str
) -> None:
    with pytest.raises(PostgresError) as caught:
        await asyncio_stream.connect(
            replace(options, user=getattr(roles, method), password="wrong")
        )
    assert caught.value.sqlstate == "28P01"
    assert caught.value.is_fatal


@pytest.mark.parametrize("method", METHODS)
async def test_missing_password_is_reported_before_one_is_sent(
    options: ConnectOptions, roles: "Roles", method: str
) -> None:
    with pytest.raises(ConnectionFailed, match="asks for a password"):
        await asyncio_stream.connect(replace(options, user=getattr(roles, method), password=""))


async def test_trust_needs_no_password(options: ConnectOptions, roles: "Roles") -> None:
    with await asyncio_stream.connect(
        replace(options, user=roles.trust, password="")
    ) as connection:
        assert (await connection.query("SELECT current_user")).scalar() == roles.trust


async def test_unknown_database_is_refused_with_its_sqlstate(options: ConnectOptions) -> None:
    with pytest.raises(PostgresError) as caught:
        await asyncio_stream.connect(replace(options, database="nowhere"))
    assert caught.value.sqlstate == "3D000"


async def test_given_key_derivation_is_used(options: ConnectOptions) -> None:
    async def wrong(password: bytes, salt: bytes, iterations: int) -> bytes:
        return b"\0" * 32

    with pytest.raises(PostgresError) as caught:
        await asyncio_stream.connect(options, derive_key=wrong)
    assert caught.value.sqlstate == "28P01"
