import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrouter.gateway import authenticate
from tests.support.application import settings
from tests.support.gateway import Stage, asking, error_of, request, shown, staged
from tests.support.raw import RawClient
from tests.support.upstream import Play, Wait, answer
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

CHAT = b"/v1/chat/completions"
NEVER_PLAYED = [answer(b'{"never": "sent"}')]
OK = [answer(b"{}")]
OTHER_SECRET = b"0" * 43


def expired(stage: Stage) -> bytes:
    key = stage.issue(expires_in_s=60)
    stage.now_s += 60
    return key


def revoked(stage: Stage) -> bytes:
    key = stage.issue()
    stage.ring.apply([stage.book.revoke(key[6:18].decode(), stage.now_s)])
    return key


REFUSED: dict[str, tuple[Callable[[Stage], bytes | None], str]] = {
    "none": (lambda _: None, "missing_key"),
    "not-ours": (lambda _: b"sk-somebody-elses", "invalid_key"),
    "unknown-id": (lambda stage: stage.key.replace(stage.key[6:18], b"A" * 12), "invalid_key"),
    "wrong-secret": (lambda stage: stage.key[:-43] + OTHER_SECRET, "invalid_key"),
    "cut-short": (lambda stage: stage.key[:-1], "invalid_key"),
    "too-long": (lambda stage: stage.key + b"0", "invalid_key"),
    "twice": (lambda stage: stage.key + b", Bearer " + stage.key, "invalid_key"),
    "other-case": (lambda stage: stage.key.swapcase(), "invalid_key"),
    "not-ascii": (lambda stage: stage.key[:-1] + b"\xff", "invalid_key"),
    "expired": (expired, "expired_key"),
    "revoked": (revoked, "revoked_key"),
}


@pytest.mark.parametrize(("make", "code"), REFUSED.values(), ids=REFUSED)
async def test_who_has_no_valid_key_never_reaches_an_upstream(
    tmp_path: Path, make: Callable[[Stage], bytes | None], code: str
) -> None:
    async with staged(tmp_path, NEVER_PLAYED) as stage:
        key = make(stage)
        response = await stage.ask(request(CHAT, key, asking()))
        assert response.status == 401
        assert response.headers[b"www-authenticate"] == b"Bearer"
        error = error_of(response)
        assert (error["code"], error["type"]) == (code, "authentication_error")
        if key and len(key) > 20:
            assert key[-20:] not in response.body
        assert stage.upstream.connections == 0
        assert stage.journal().calls == []
        assert [(line.status, line.code) for line in stage.log] == [(401, code)]


@pytest.mark.parametrize("line", [b"authorization:", b"authorization: Bearer", b"x-api-key:"])
async def test_a_key_that_was_left_empty_is_none(tmp_path: Path, line: bytes) -> None:
    async with staged(tmp_path, NEVER_PLAYED) as stage:
        response = await stage.ask(request(CHAT, None, asking(), line))
        assert response.status == 401
        assert stage.upstream.connections == 0


@pytest.mark.parametrize("target", [b"/v1/models", b"/v1/models/gpt", b"/v1/embeddings"])
async def test_every_path_wants_a_key(tmp_path: Path, target: bytes) -> None:
    method = b"GET" if b"models" in target else b"POST"
    async with staged(tmp_path, NEVER_PLAYED) as stage:
        response = await stage.ask(request(target, None, method=method))
        assert (response.status, error_of(response)["code"]) == (401, "missing_key")


@pytest.mark.parametrize(
    "line",
    [
        b"authorization: bearer %b",
        b"Authorization:  BEARER   %b ",
        b"x-api-key: %b",
        b"api-key: %b",
    ],
)
async def test_a_key_is_taken_as_clients_send_it(tmp_path: Path, line: bytes) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage:
        response = await stage.ask(request(CHAT, None, asking(), line % stage.key))
        assert response.status == 200


async def test_a_revoked_key_is_refused_on_a_connection_that_it_opened(tmp_path: Path) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage, stage.connected() as client:
        await client.send(stage.chat())
        assert (await shown(client)).status == 200
        stage.ring.apply([stage.book.revoke(stage.key[6:18].decode(), stage.now_s)])
        await client.send(stage.chat())
        assert error_of(await shown(client))["code"] == "revoked_key"
        assert len(stage.upstream.seen) == 1


async def test_who_calls_is_told_apart_on_one_connection(tmp_path: Path) -> None:
    async with staged(tmp_path, OK) as stage, stage.connected() as client:
        keys = [stage.issue(), stage.issue()]
        for key in [*keys, *keys, keys[0], keys[0], keys[1], b"sk-lr-nobody"]:
            await client.send(stage.chat(key=key))
            await shown(client)
        ids = [key[6:18].decode() for key in keys]
        called = [call.begin.key_id for call in await stage.calls()]
        assert called == [*ids, *ids, ids[0], ids[0], ids[1]]


async def test_a_large_body_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with staged(tmp_path, NEVER_PLAYED) as stage, stage.connected() as client:
        whole = request(CHAT, b"sk-wrong", b"x" * 900_000)
        await client.send(whole[:1000])
        response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (401, "invalid_key")
        assert response.headers[b"connection"] == b"close"
        assert stage.upstream.connections == 0


async def test_a_body_that_waits_for_leave_is_not_invited(tmp_path: Path) -> None:
    async with staged(tmp_path, NEVER_PLAYED) as stage, stage.connected() as client:
        whole = request(CHAT, None, b"x" * 1000, b"expect: 100-continue")
        await client.send(whole[:-1000])
        sent = await client.read_until(b"\r\n\r\n")
        assert sent.startswith(b"HTTP/1.1 401 ")
        assert b"100 Continue" not in sent


async def test_a_body_that_waits_for_leave_is_invited_by_a_valid_key(tmp_path: Path) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage, stage.connected() as client:
        whole = stage.chat(b"expect: 100-continue")
        await client.send(whole[: whole.index(b"\r\n\r\n") + 4])
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert stage.upstream.connections == 0
        await client.send(whole[whole.index(b"\r\n\r\n") + 4 :])
        assert (await shown(client)).status == 200


async def test_a_refused_call_keeps_its_connection_for_the_next(tmp_path: Path) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage, stage.connected() as client:
        await client.send(request(CHAT, b"sk-wrong", asking()) + stage.chat())
        assert (await shown(client)).status == 401
        assert (await shown(client)).status == 200


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    limits = settings(body_bytes=1000)
    async with staged(tmp_path, NEVER_PLAYED, limits=limits) as stage:
        async with stage.connected() as client:
            await client.send(request(CHAT, stage.key, b"x" * 1001)[:-1001])
            response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (413, "body_too_large")
        assert stage.upstream.connections == 0


# ---- keys that end while their calls wait ----------------------------------------------------


def revoke(stage: Stage, key: bytes) -> None:
    stage.ring.apply([stage.book.revoke(key[6:18].decode(), stage.now_s)])


def let_expire(stage: Stage, _key: bytes) -> None:
    stage.now_s += 60


ENDED: dict[str, tuple[Callable[[Stage, bytes], None], str]] = {
    "revoked": (revoke, "revoked_key"),
    "expired": (let_expire, "expired_key"),
}
over_ends = pytest.mark.parametrize(("end", "code"), ENDED.values(), ids=ENDED)


@pytest.fixture
def confirmed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticate, "CONFIRM_AFTER_S", 0.0)


async def refused(client: RawClient, code: str) -> bool:
    response = await shown(client)
    return (response.status, error_of(response)["code"]) == (401, code)


async def called_until(stage: Stage, end: Callable[[Stage, bytes], None]) -> str:
    """The code that a caller is refused with whose key ends behind a head that is known."""
    async with stage.connected() as client:
        key = stage.issue(expires_in_s=60)
        for _ in range(3):
            await client.send(stage.chat(key=key))
            assert (await shown(client)).status == 200
        end(stage, key)
        await client.send(stage.chat(key=key))
        code: str = error_of(await shown(client))["code"]
    assert len(stage.upstream.seen) == 3
    return code


@pytest.mark.usefixtures("confirmed_at_once")
@over_ends
async def test_a_key_that_ends_is_refused_behind_a_head_that_is_known(
    tmp_path: Path, end: Callable[[Stage, bytes], None], code: str
) -> None:
    async with staged(tmp_path, OK) as stage:
        assert await called_until(stage, end) == code


async def test_a_key_that_is_revoked_is_refused_at_once_behind_a_head_that_is_known(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, OK) as stage:
        assert await called_until(stage, revoke) == "revoked_key"


@pytest.mark.usefixtures("confirmed_at_once")
@over_ends
@pytest.mark.parametrize("target", [CHAT, b"/v1/models"])
async def test_a_key_that_ends_while_its_request_is_queued_is_refused(
    tmp_path: Path, end: Callable[[Stage, bytes], None], code: str, target: bytes
) -> None:
    go_on = asyncio.Event()
    slow: Play = [Wait(go_on), answer(b"{}")]
    async with staged(tmp_path, slow) as stage, stage.connected() as client:
        key = stage.issue(expires_in_s=60)
        queued = request(target, key, asking() if target == CHAT else b"", method=METHOD[target])
        await client.send(stage.chat() + queued)
        (serving,) = stage.server.connections
        await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
        await until(lambda: len(serving._ready) == 1, "the second was not read")
        end(stage, key)
        go_on.set()
        assert (await shown(client)).status == 200
        assert await refused(client, code)
        assert len(stage.upstream.seen) == 1


METHOD = {CHAT: b"POST", b"/v1/models": b"GET"}


@pytest.mark.usefixtures("confirmed_at_once")
@over_ends
async def test_a_key_that_ends_while_its_body_arrives_is_refused(
    tmp_path: Path, end: Callable[[Stage, bytes], None], code: str
) -> None:
    async with staged(tmp_path, NEVER_PLAYED) as stage, stage.connected() as client:
        key = stage.issue(expires_in_s=60)
        whole = stage.chat(key=key)
        await client.send(whole[:-5])
        await until(lambda: any(c._exchange for c in stage.server.connections), "not read")
        end(stage, key)
        await client.send(whole[-5:])
        assert await refused(client, code)
        assert stage.upstream.connections == 0
        assert stage.journal().calls == []


async def test_a_revocation_is_noticed_however_short_the_wait_was(tmp_path: Path) -> None:
    async with staged(tmp_path, NEVER_PLAYED) as stage, stage.connected() as client:
        whole = stage.chat()
        await client.send(whole[:-5])
        await until(lambda: any(c._exchange for c in stage.server.connections), "not read")
        revoke(stage, stage.key)
        await client.send(whole[-5:])
        assert await refused(client, "revoked_key")
        assert stage.upstream.connections == 0


async def test_another_key_that_ends_meanwhile_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage, stage.connected() as client:
        whole = stage.chat()
        await client.send(whole[:-5])
        await until(lambda: any(c._exchange for c in stage.server.connections), "not read")
        revoke(stage, stage.issue())
        await client.send(whole[-5:])
        assert (await shown(client)).status == 200
