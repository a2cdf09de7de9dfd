"""The composition root: every setting that is served arrives where it works."""

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.access.ruletext import parse_limit
from llmrouter.config.schema import Settings
from llmrouter.daemon import build, routing, unix
from llmrouter.daemon.channel import Start
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.rules import prices, prices_at, rules
from llmrouter.gateway.exchange import Exchange
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.server import Server, ServerSettings
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.journal import Journal, JournalFiles, Write, journal_paths
from llmrouter.metering.prices import PriceTable
from llmrouter.metering.records import Header
from llmrouter.metering.replay import pair
from llmrouter.quota.desk import DeskTerms
from llmrouter.routing.conditions import Conditions
from llmrouter.stores.memory import MemoryStore
from tests.support.gateway import Pause
from tests.support.leaks import Failures
from tests.support.ledger import Node
from tests.support.raw import Response, connected
from tests.support.upstream import Play, ScriptedUpstream, Stall, Wait, answer, scripted
from tests.support.waiting import until

NOW_S = 1_700_000_000
DIGEST_KEY = bytes(range(32))
SECRET = "sk-provider-abcDEF123456"  # made up
CHAT = msgspec.json.encode(
    {
        "id": "x", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)  # fmt: skip
ANSWERS: Play = (answer(CHAT, headers=b"content-type: application/json\r\n"),)
Tables = Mapping[str, Any]


def settings(url: str, tables: Tables) -> Settings:
    upstreams = {"up": {"url": url}, "other": {"url": url, "tags": {"region": "us"}}}
    models = {"m": {"deployments": [{"upstream": "up"}]}}
    return msgspec.convert({"upstreams": upstreams, "models": models, **tables}, Settings)


def start(
    wanted: Settings | None = None,
    *,
    workers: int = 1,
    secrets: dict[str, str] | None = None,
    demo: str | None = None,
) -> Start:
    return Start(
        worker=0,
        workers=workers,
        config=b"",
        secrets=secrets or {},
        digest_key=DIGEST_KEY,
        keys=[],
        journal_dir="",
        listener_fds=[],
        demo_path=demo,
        started_at_s=NOW_S,
        boot="b",
        rules=0,
        prices=PriceTable() if wanted is None else _prices(wanted),
        clock_offset_ms=SteadyClock().offset_ms,
    )


def _prices(wanted: Settings) -> PriceTable:
    return PriceTable(explicit=prices(wanted), explicit_at=prices_at(wanted))


def _log_nothing(exchange: Exchange) -> None:
    del exchange


class Built:
    """A worker's server on a port of its own, what is behind it, and what its log was told."""

    def __init__(self, upstream: ScriptedUpstream, server: Server, directory: Path) -> None:
        self.upstream = upstream
        self.server = server
        self.directory = directory
        self.book = KeyBook(MemoryStore(), KeyDigest(DIGEST_KEY))
        self.address = ("", 0)
        self.issue: Any = None

    def request(self, key: str, model: str, path: str = "/v1/chat/completions") -> bytes:
        body = msgspec.json.encode({"model": model, "messages": []})
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, key: str, model: str = "m") -> Response:
        """One call on a connection of its own."""
        async with connected(self.address) as client:
            await client.send(self.request(key, model))
            return await client.response()

    async def models(self, key: str) -> list[str]:
        """The names that a key may ask for."""
        async with connected(self.address) as client:
            head = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
            await client.send(head.encode())
            listed = msgspec.json.decode((await client.response()).body)
        return [model["id"] for model in listed["data"]]

    def sent(self) -> list[str]:
        """The models that were asked for upstream."""
        return [msgspec.json.decode(seen.body)["model"] for seen in self.upstream.seen]


def code(response: Response) -> str:
    found: str = msgspec.json.decode(response.body)["error"]["code"]
    return found


@asynccontextmanager
async def built(
    directory: Path,
    tables: Tables,
    *plays: Play,
    workers: int = 1,
    secrets: dict[str, str] | None = None,
    write: Write = os.write,
) -> AsyncIterator[Built]:
    """Build what a worker serves, and serve it."""
    loop = asyncio.get_running_loop()
    async with scripted(*(plays or [ANSWERS])) as upstream:
        wanted = settings(upstream.url + "/v1", tables)
        said = start(wanted, workers=workers, secrets=secrets)
        header = Header(worker="0", boot="b", pid=1)
        files = JournalFiles(directory / "journal", header, write=write)
        journal = Journal(files, call_soon=loop.call_soon, call_later=loop.call_later)
        ring = build.keyring(said)
        terms = DeskTerms(hold_wait_ms=0, waiting_max=0)
        node = Node(rules(wanted), journal, directory / "journal", terms)
        quota = build.Quota(node.leases, node.denials)
        conditions = Conditions(routing.breakers(wanted), now_s=loop.time())
        parts = build.Parts(ring, journal, quota, conditions)
        gateway = build.gateway(wanted, said, parts, _log_nothing)
        found = Built(upstream, build.server(wanted, said, gateway), directory)

        def issue(**terms: Any) -> str:
            key, text = found.book.create(KeyTerms(**{"org": "acme", **terms}), NOW_S)
            ring.apply([key])
            build.apply_rules(node.rulebook, wanted, [key])
            return text

        found.issue = issue
        listener = await loop.create_server(found.server.protocol, "127.0.0.1", 0)
        found.address = listener.sockets[0].getsockname()
        try:
            yield found
        finally:
            listener.close()
            found.server.abort()
            await found.server.emptied()
            await until(node.is_quiet, "somebody waits for the ledger")
            node.rest()
            journal.close()
            node.tail.close()
            close_upstreams(gateway)


def close_upstreams(gateway: Any) -> None:
    """A worker ends with its connections open; a test may not."""
    for upstream in gateway._steps.forwarder._upstreams.values():
        upstream.pool.close()
        upstream.pool._deadlines.close()


# ---- limits and time-outs ---------------------------------------------------------------------


@given(whole=st.integers(1, 10**12), workers=st.integers(1, 512))
def test_the_shares_of_a_limit_are_at_least_the_limit_and_barely_more(
    whole: int, workers: int
) -> None:
    one = build.share(whole, workers)

    assert one >= 1
    assert 0 <= one * workers - whole < workers


@pytest.mark.parametrize(
    ("workers", "connections", "buffered"),
    [(1, 10, 4_000), (3, 4, 1_334), (16, 1, 900)],
)
@pytest.mark.asyncio
async def test_the_limits_of_the_server_are_shared_by_its_workers(
    tmp_path: Path, workers: int, connections: int, buffered: int
) -> None:
    tables = {
        "server": {
            "limits": {
                "connections": 10,
                "head_bytes": 512,
                "body_bytes": 900,
                "buffered_bytes": 4_000,
            },
            "timeouts": {"head": 1, "body": 2, "idle": 3, "drain": 4},
        }
    }
    async with built(tmp_path, tables, workers=workers) as found:
        assert found.server.settings == ServerSettings(
            connections=connections,  # a share
            head_bytes=512,  # of each request
            body_bytes=900,
            buffered_bytes=buffered,  # a share, but never too small for one body
            head_s=1,
            body_s=2,
            idle_s=3,
        )


@pytest.mark.asyncio
async def test_one_connection_too_many_is_told_in_the_dialect(tmp_path: Path) -> None:
    async with (
        built(tmp_path, {"server": {"limits": {"connections": 1}}}) as found,
        connected(found.address),
    ):
        await until(lambda: len(found.server.connections) == 1, "it was not accepted")
        async with connected(found.address) as second:
            refusal = await second.response()

    assert refusal.status == 503
    assert refusal.headers[b"retry-after"] == b"1"
    assert refusal.headers[b"connection"] == b"close"
    assert refusal.headers[b"x-request-id"].startswith(b"req_")
    error = msgspec.json.decode(refusal.body)["error"]
    assert error["code"] == "overloaded"
    assert "(1 a worker)" in error["message"]


@pytest.mark.asyncio
async def test_one_call_too_many_is_refused(tmp_path: Path) -> None:
    limits = {"server": {"limits": {"inflight": 2}}}
    async with built(tmp_path, limits, (Stall(),), workers=2) as found:
        key = found.issue()
        async with connected(found.address) as first:
            await first.send(found.request(key, "m"))
            await until(lambda: len(found.upstream.seen) == 1, "it did not go upstream")

            assert code(await found.ask(key)) == "overloaded"


@pytest.mark.asyncio
async def test_the_time_outs_of_each_upstream_are_its_own(tmp_path: Path) -> None:
    quick = {"connect": 1.5, "first_token": 0.05, "idle": 2.5, "total": 3.5}
    tables = {
        "upstreams": {
            "quick": {"url": "http://127.0.0.1:9", "timeouts": quick},
            "usual": {"url": "http://127.0.0.1:9"},
        },
        "models": {},
    }
    async with built(tmp_path, tables):
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop, 1)
        made = {
            name: build._upstream(
                name, table, {"openai": build.dialect("openai")}, deadlines, start()
            ).terms.timeouts
            for name, table in settings("http://x", tables).upstreams.items()
        }

    assert made == {
        "quick": UpstreamTimeouts(connect_s=1.5, first_s=0.05, idle_s=2.5, total_s=3.5),
        "usual": UpstreamTimeouts(connect_s=5.0, first_s=60.0, idle_s=30.0, total_s=600.0),
    }


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("table", "estimated"),
    [({}, False), ({"seconds": 0}, True), ({"seconds": 60, "bytes": 10}, True)],
    ids=["usual", "off", "few-bytes"],
)
async def test_an_answer_whose_client_left_is_read_on_as_its_upstream_wants(
    tmp_path: Path, table: dict[str, int], estimated: bool
) -> None:
    go_on = asyncio.Event()
    play: Play = (Wait(go_on), answer(CHAT)[:-1], Wait(Pause()), answer(CHAT)[-1:])
    async with scripted(play) as slow:
        tables = {"upstreams": {"up": {"url": slow.url, "drain_after_disconnect": table}}}
        async with built(tmp_path, tables) as found:
            async with connected(found.address) as client:
                await client.send(found.request(found.issue(), "m"))
                await until(lambda: len(slow.seen) == 1, "nothing was asked")
                client.reset()
            await until(lambda: not found.server.connections, "the client is still there")
            go_on.set()
            directory = tmp_path / "journal"

            def ended() -> bool:
                return pair(journal_paths(directory)).calls[0].end is not None

            await until(ended, "the call did not end")
            (call,) = pair(journal_paths(directory)).calls
    assert call.end is not None
    assert (call.end.outcome, call.end.estimated) == ("client_gone", estimated)


@pytest.mark.asyncio
async def test_an_upstream_that_stays_silent_is_given_up_in_its_own_time(tmp_path: Path) -> None:
    async with scripted((Stall(),)) as silent:
        table = {"url": silent.url, "timeouts": {"first_token": 0.05}}
        tables = {"upstreams": {"up": table}}
        async with built(tmp_path, tables) as found:
            assert code(await found.ask(found.issue())) == "upstream_timeout"


def full(_fd: int, _data: bytes | memoryview) -> int:
    """A disk that takes nothing."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("table", "status"),
    [({}, 503), ({"on_disk_full": "refuse"}, 503), ({"on_disk_full": "serve"}, 200)],
    ids=["usual", "refuse", "serve"],
)
async def test_on_a_full_disk_calls_stop_or_go_on_as_is_configured(
    tmp_path: Path, no_leaks: Failures, table: dict[str, str], status: int
) -> None:
    async with built(tmp_path, {"books": table}, write=full) as found:
        assert (await found.ask(found.issue())).status == status
    assert [line.partition("=")[0] for line in no_leaks.seen] == ["calls_unrecorded"] * (
        status == 200
    )
    no_leaks.seen.clear()


# ---- upstreams ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_each_upstream_is_sent_its_own_credential_and_no_other(tmp_path: Path) -> None:
    tables = {
        "models": {
            "with": {"deployments": [{"upstream": "up"}]},
            "without": {"deployments": [{"upstream": "other"}]},
        }
    }
    async with built(tmp_path, tables, secrets={"up": SECRET}) as found:
        key = found.issue()
        assert (await found.ask(key, "with")).status == 200
        assert (await found.ask(key, "without")).status == 200
        first, second = found.upstream.seen

    assert first.headers[b"authorization"] == b"Bearer " + SECRET.encode()
    assert b"authorization" not in second.headers
    assert first.target == b"/v1/chat/completions"


@pytest.mark.asyncio
async def test_an_upstream_of_a_dialect_not_served_yet_is_left_out(tmp_path: Path) -> None:
    tables = {
        "upstreams": {
            "later": {"url": "https://api.example.com", "dialect": "anthropic"},
            "up": {"url": "http://127.0.0.1:9"},
        }
    }
    async with built(tmp_path, tables) as found:
        assert await found.models(found.issue()) == ["m"]


@pytest.mark.parametrize("name", ["d", "d" * 120], ids=["short path", "long path"])
@pytest.mark.asyncio
async def test_the_demo_is_reached_over_its_socket_wherever_that_is(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name / "demo.sock"
    os.mkdir(path.parent)
    listener = unix.listen(path, mode=0o600, backlog=4)
    played = ScriptedUpstream([ANSWERS])
    server = await asyncio.start_unix_server(played.serve, sock=listener)
    try:
        table = settings("builtin:demo", {}).upstreams["up"]
        deadlines = Deadlines(asyncio.get_running_loop(), 1)
        dialects = {"openai": build.dialect("openai")}
        demo = build._upstream("up", table, dialects, deadlines, start(demo=str(path)))

        connection = await demo.pool.fresh(5)

        assert connection.is_open()
        demo.pool.close()
        deadlines.close()
    finally:
        server.close()
        await played.stop()


# ---- routes and policy --------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_names_aliases_and_patterns_lead_to_their_deployments(tmp_path: Path) -> None:
    tables = {
        "models": {
            "gpt": {
                "aliases": ["best", "latest"],
                "deployments": [{"upstream": "up", "model": "gpt-2026"}],
            },
            "free-*": {"deployments": [{"upstream": "other"}]},
            "free-long-*": {"deployments": [{"upstream": "other", "model": "long"}]},
        }
    }
    async with built(tmp_path, tables) as found:
        key = found.issue()
        asked = ("gpt", "best", "latest", "free-x", "free-long-x")
        statuses = [(await found.ask(key, name)).status for name in asked]
        unknown = await found.ask(key, "gpt-2026")
        listed = await found.models(key)

    assert statuses == [200] * 5
    assert found.sent() == ["gpt-2026", "gpt-2026", "gpt-2026", "free-x", "long"]
    assert code(unknown) == "model_not_found"
    assert listed == ["best", "gpt", "latest"]


@pytest.mark.asyncio
async def test_maps_and_tags_of_the_file_lead_calls(tmp_path: Path) -> None:
    """FR-002: what router.toml says decides who serves."""
    tables = {
        "models": {
            "m": {"deployments": [{"upstream": "other", "model": "us"}]},
            "both": {
                "strategy": "ordered",
                "deployments": [
                    {"upstream": "other", "model": "us"},
                    {"upstream": "up", "model": "eu", "tags": {"region": "eu"}},
                ],
            },
        },
        "orgs": {"acme": {"model_map": {"old-*": "both"}, "require": {"region": "eu"}}},
    }
    async with built(tmp_path, tables) as found:
        key = found.issue()
        mapped = await found.ask(key, model="old-one")
        assert mapped.status == 200
        assert mapped.headers[b"x-llmrouter-model"] == b"both"
        assert (await found.ask(key, model="m")).status == 403
    assert found.sent() == ["eu"]


@pytest.mark.parametrize(
    ("strategy", "sent"),
    [
        ("weighted", ["a", "a", "b", "a"] * 2),
        ("ordered", ["a"] * 8),
        ("cheapest", ["b"] * 8),
    ],
)
@pytest.mark.asyncio
async def test_a_route_chooses_by_its_strategy(
    tmp_path: Path, strategy: str, sent: list[str]
) -> None:
    deployments = [
        {"upstream": "up", "model": "a", "weight": 3, "price": {"input": 2, "output": 2}},
        {"upstream": "other", "model": "b", "price": {"input": 1, "output": 3}},
    ]
    tables = {"models": {"m": {"strategy": strategy, "deployments": deployments}}}
    async with built(tmp_path, tables) as found:
        key = found.issue()
        for _ in range(8):
            assert (await found.ask(key)).status == 200

    assert found.sent() == sent


MODELS = {name: {"deployments": [{"upstream": "up"}]} for name in ("a", "b", "c-1", "c-2")}
ORGS = {
    "acme": {"models": ["a", "c-*"], "teams": {"research": {"models": ["c-1", "b"]}, "all": {}}},
    "globex": {"teams": {"research": {"models": ["b"]}}},
}


@pytest.mark.parametrize(
    ("terms", "names"),
    [
        ({"org": "acme"}, ["a", "c-1", "c-2"]),
        ({"org": "acme", "team": "research"}, ["c-1"]),  # never more than its org
        ({"org": "acme", "team": "all"}, ["a", "c-1", "c-2"]),
        ({"org": "acme", "team": "unheard of"}, ["a", "c-1", "c-2"]),
        ({"org": "acme", "models": ("c-2", "b")}, ["c-2"]),
        ({"org": "globex"}, ["a", "b", "c-1", "c-2"]),
        ({"org": "globex", "team": "research"}, ["b"]),  # not that of the other org
        ({"org": "unheard of"}, ["a", "b", "c-1", "c-2"]),
    ],
    ids=str,
)
@pytest.mark.asyncio
async def test_a_key_opens_what_its_org_its_team_and_itself_allow(
    tmp_path: Path, terms: dict[str, Any], names: list[str]
) -> None:
    async with built(tmp_path, {"models": MODELS, "orgs": ORGS}) as found:
        key = found.issue(**terms)
        listed = await found.models(key)
        statuses = {name: (await found.ask(key, name)).status for name in MODELS}

    assert listed == names
    assert statuses == {name: 200 if name in names else 403 for name in MODELS}


@pytest.mark.asyncio
async def test_a_call_is_in_the_journal_under_its_own_id(tmp_path: Path) -> None:
    async with built(tmp_path, {}) as found:
        response = await found.ask(found.issue(team="research", user="ada"))

    (recorded,) = pair(journal_paths(tmp_path / "journal")).calls
    assert recorded.begin.request_id == response.headers[b"x-request-id"].decode()
    assert (recorded.begin.org, recorded.begin.team) == ("acme", "research")
    assert recorded.begin.user == "ada"
    assert recorded.begin.at_ms > NOW_S * 1000  # by the calendar, not by the loop


# ---- limits and budgets -------------------------------------------------------------------------


LIMITED = {
    "models": {
        "m": {"deployments": [{"upstream": "up"}], "aliases": ["house"]},
        "priced": {"deployments": [{"upstream": "up"}], "price": {"input": 1, "output": 2}},
        "*": {"deployments": [{"upstream": "up"}]},
    },
    "orgs": {
        "acme": {"limits": [{"requests": 1, "per": "day", "model": "house"}]},
        "paying": {"budgets": [{"usd": 1, "per": "day"}]},
        "careless": {"budgets": [{"usd": 1, "per": "day"}], "unpriced": "warn"},
    },
}


@pytest.mark.asyncio
async def test_the_rules_of_the_file_and_of_keys_refuse_calls(tmp_path: Path) -> None:
    async with built(tmp_path, LIMITED) as found:
        one, other = found.issue(), found.issue(rules=(parse_limit("requests=2/day"),))
        codes = [(await found.ask(key, name)).status for key, name in (
            (one, "m"), (other, "m"), (one, "house"),  # an alias counts as its model
            (other, "priced"), (other, "x"), (other, "x"),
        )]  # fmt: skip

    assert codes == [200, 429, 429, 200, 200, 429]


@pytest.mark.parametrize(
    ("org", "model", "status"),
    [("paying", "priced", 200), ("paying", "m", 402), ("careless", "m", 200), ("none", "m", 200)],
)
@pytest.mark.asyncio
async def test_a_budget_takes_no_model_without_a_price_unless_its_org_says_so(
    tmp_path: Path, org: str, model: str, status: int
) -> None:
    async with built(tmp_path, LIMITED) as found:
        assert (await found.ask(found.issue(org=org), model)).status == status


def test_a_rulebook_counts_new_rules_of_keys_from_its_generation_on() -> None:
    wanted = settings("http://x", LIMITED)
    book = KeyBook(MemoryStore(), KeyDigest(DIGEST_KEY))
    key, _ = book.create(KeyTerms(org="acme", rules=(parse_limit("concurrent=5"),)), NOW_S)

    made = build.rulebook(wanted, [key], 7)

    applying = made.applying(org="acme", team=None, user=None, key_id=key.id, model="m")
    assert [(found.bucket, found.since) for found in applying] == [
        ("org/acme/requests/day/m", 0),
        (f"key/{key.id}/concurrent", 7),
    ]


# ---- the rest -----------------------------------------------------------------------------------


def test_the_keys_of_the_start_message_are_in_force() -> None:
    book = KeyBook(MemoryStore(), KeyDigest(DIGEST_KEY))
    key, text = book.create(KeyTerms(org="acme"), NOW_S)

    ring = build.keyring(msgspec.structs.replace(start(), keys=[key]))

    assert ring.authenticate(text.encode(), NOW_S).key_id == key.id


@pytest.mark.parametrize("name", build.DIALECTS)
def test_every_dialect_of_the_table_can_be_served(name: str) -> None:
    found = build.dialect(name)

    assert found.paths
    assert found.models_path.startswith(b"/")


def test_no_two_requests_have_one_id_on_any_worker_or_after_any_start() -> None:
    generators = [build.request_ids() for _ in range(50)]

    ids = [generate() for generate in generators for _ in range(300)]

    assert len(set(ids)) == len(ids)
    assert {name[:20] for name in ids[:300]} == {ids[0][:20]}  # one start is told by its prefix
    assert all(re.fullmatch(r"req_[0-9a-f]+", name) for name in ids)
    assert max(map(len, ids)) <= 24


@pytest.mark.asyncio
async def test_a_stranger_is_answered_with_what_to_send(tmp_path: Path) -> None:
    async with built(tmp_path, {}) as found, connected(found.address) as client:
        await client.send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        response = await client.response()
    assert response.status == 401
    assert code(response) == "missing_key"
