from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy
from llmrouter.access.principal import Principal
from llmrouter.errors import ModelNotAllowed, ModelNotFound
from llmrouter.gateway.route import FOUND_MAX, Router
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import Route, Routes
from llmrouter.routing.strategy import Ordered
from tests.support.gateway import Stage, error_of, request, staged
from tests.support.upstream import answer

UP = Deployment(upstream="up", model="real")
ORGS = {"narrow": ["gpt", "any-*"]}
TEAMS = {("acme", "ops"): ["same"]}


def router(*orgs: str) -> Router:
    routes = Routes(
        [
            Route("gpt", [UP], Ordered, aliases=["gpt-latest"]),
            Route("gpt-*", [UP], Ordered),
            Route("meta/llama", [UP], Ordered),
        ]
    )
    return Router(routes, ModelPolicy({"acme": ModelPatterns(orgs)}, {}))


def holder(*models: str) -> Principal:
    return Principal(
        org="acme", team=None, user=None, key_id="k" * 12, models=ModelPatterns(models)
    )


@pytest.mark.parametrize(
    ("asked", "org", "key"),
    [
        ("gpt", (), ()),
        ("gpt", ("gpt",), ("gpt",)),
        ("gpt-latest", ("gpt",), ()),
        ("gpt-latest", ("gpt-latest",), ()),
        ("gpt-latest", ("gpt",), ("gpt",)),
        ("gpt-5", ("gpt-*",), ("*-5",)),
    ],
)
def test_finds_what_org_and_key_both_allow(
    asked: str, org: tuple[str, ...], key: tuple[str, ...]
) -> None:
    """FR-003: a model may be allowed by its own name or by the alias asked for."""
    assert router(*org).find(asked, holder(*key)).choose() is UP


@pytest.mark.parametrize(
    ("asked", "org", "key"),
    [
        ("gpt", ("gpt-*",), ()),
        ("gpt", (), ("other",)),
        ("gpt", ("gpt",), ("gpt-*",)),
        ("gpt", ("gpt-latest",), ()),
        ("gpt-latest", ("other",), ()),
        ("gpt-5", (), ("gpt",)),
    ],
)
def test_refuses_what_one_of_them_does_not_allow(
    asked: str, org: tuple[str, ...], key: tuple[str, ...]
) -> None:
    with pytest.raises(ModelNotAllowed, match=asked.partition("-")[0]) as caught:
        router(*org).find(asked, holder(*key))
    assert caught.value.param == "model"


@pytest.mark.parametrize("asked", ["gtp", "GPT", "gpt ", "", "meta", "meta/llama/2"])
def test_finds_nothing_for_a_name_without_route(asked: str) -> None:
    with pytest.raises(ModelNotFound):
        router().find(asked, holder())


def test_what_was_found_once_is_looked_at_anew_once_the_key_has_changed() -> None:
    routed = router()
    routed.find("gpt-5", holder())
    routed.find("gpt-5", holder("gpt-*"))
    with pytest.raises(ModelNotAllowed):
        routed.find("gpt-5", holder("other"))
    routed.find("gpt-5", holder())


def test_a_name_that_was_refused_is_refused_again() -> None:
    routed, principal = router(), holder("gpt")
    for _ in range(3):
        with pytest.raises(ModelNotAllowed):
            routed.find("gpt-5", principal)
        assert routed.find("gpt", principal).name == "gpt"


def test_names_that_callers_invent_do_not_pile_up() -> None:
    routed, principal = router(), holder()
    for n in range(FOUND_MAX + 10):
        assert routed.find(f"gpt-{n}", principal).name == "gpt-*"
    assert len(routed._found) <= FOUND_MAX


def test_lists_only_what_may_be_called() -> None:
    assert router().names(holder()) == ["gpt", "gpt-latest", "meta/llama"]
    assert router().names(holder("meta/*")) == ["meta/llama"]
    assert router("gpt").names(holder()) == ["gpt", "gpt-latest"]
    assert router("gpt").names(holder("meta/*")) == []


@pytest.mark.parametrize("name", ["gpt", "gpt-latest", "gpt-5", "gpt-*"])
def test_a_listed_name_is_one_that_can_be_called(name: str) -> None:
    router().check_listed(name, holder())
    router().find(name, holder())


@pytest.mark.parametrize("name", ["gpt", "gpt-5", "nothing", ""])
def test_what_may_not_be_called_is_listed_as_if_it_did_not_exist(name: str) -> None:
    with pytest.raises(ModelNotFound):
        router().check_listed(name, holder("meta/*"))


REFUSED: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "by-key": ({"models": ["other*"]}, "gpt", 403, "model_not_allowed"),
    "by-org": ({"org": "narrow"}, "same", 403, "model_not_allowed"),
    "by-team": ({"team": "ops"}, "gpt", 403, "model_not_allowed"),
    "by-key-of-pattern": ({"models": ["any-1"]}, "any-2", 403, "model_not_allowed"),
    "by-alias-of-another": ({"models": ["same"]}, "nick", 403, "model_not_allowed"),
    "unknown": ({}, "gtp", 404, "model_not_found"),
    "pattern-prefix": ({}, "any", 404, "model_not_found"),
    "upstream-name": ({}, "gpt-real", 404, "model_not_found"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize(("terms", "model", "status", "code"), REFUSED.values(), ids=REFUSED)
async def test_a_model_that_may_not_be_used_never_reaches_an_upstream(
    tmp_path: Path, terms: dict[str, Any], model: str, status: int, code: str
) -> None:
    async with staged(
        tmp_path, [answer(b"{}")], orgs=ORGS, teams=TEAMS, aliases={"gpt": ["nick"]}
    ) as stage:
        response = await stage.ask(stage.chat(key=stage.issue(**terms), model=model))
        error = error_of(response)
        assert (response.status, error["code"], error["param"]) == (status, code, "model")
        assert b"www-authenticate" not in response.headers
        assert stage.upstream.connections == 0
        assert stage.journal().calls == []


INJECTED = [
    "gpt\r\nx-injected: 1",
    "any-\r\n\r\nHTTP/1.1 200 OK",
    "any-\nx: y",
    "any-\x00",
    "any-\x7f",
    "any-\u2028",
    "any-\u00e9",
    "any-" + "x" * 300,
    "any- ",
    "",
]


@pytest.mark.asyncio
@pytest.mark.parametrize("model", INJECTED)
async def test_no_name_of_a_model_gets_out_of_its_header(tmp_path: Path, model: str) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage, stage.connected() as client:
        await client.send(stage.chat(b"connection: close", model=model))
        sent = await client.read_all()
        head, _, body = sent.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
        assert len(head.splitlines()) == 5  # status, type, id, length, connection
        assert body.startswith(b'{"error":')
        assert stage.upstream.connections == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "model", ["any-x: y", "any-%0d%0a", 'any-"quoted"', "any-a/b/c", "any-\\r"]
)
async def test_a_printable_name_goes_up_and_into_the_header_as_it_is(
    tmp_path: Path, model: str
) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage:
        response = await stage.ask(stage.chat(model=model))
        assert response.headers[b"x-llmrouter-deployment"] == b"up/" + model.encode()
        assert msgspec.json.decode(stage.upstream.seen[0].body)["model"] == model
        (call,) = await stage.calls()
        assert (call.begin.model, call.begin.deployment) == (model, f"up/{model}")


@pytest.mark.asyncio
async def test_a_call_is_counted_under_the_model_and_not_under_its_alias(tmp_path: Path) -> None:
    async with staged(tmp_path, [answer(b"{}")], aliases={"gpt": ["nick"]}) as stage:
        await stage.ask(stage.chat(model="nick"))
        assert msgspec.json.decode(stage.upstream.seen[0].body)["model"] == "gpt-real"
        (call,) = await stage.calls()
        assert call.begin.model == "gpt"


async def listed(stage: Stage, **terms: Any) -> list[str]:
    response = await stage.ask(request(b"/v1/models", stage.issue(**terms), method=b"GET"))
    assert response.status == 200
    found = msgspec.json.decode(response.body)
    assert found["object"] == "list"
    return [model["id"] for model in found["data"]]


@pytest.mark.asyncio
async def test_the_list_shows_a_key_what_it_may_use(tmp_path: Path) -> None:
    async with staged(
        tmp_path, [answer(b"{}")], orgs=ORGS, teams=TEAMS, aliases={"gpt": ["nick"]}
    ) as stage:
        assert await listed(stage) == ["gpt", "nick", "same"]
        assert await listed(stage, models=["same"]) == ["same"]
        assert await listed(stage, org="narrow") == ["gpt", "nick"]
        assert await listed(stage, team="ops") == ["same"]
        assert await listed(stage, org="narrow", models=["same"]) == []
        assert stage.upstream.connections == 0


NAMED = {"org/one model": UP, "any-*": UP, "a%b": UP}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"org/one%20model", "org/one model"),
        (b"org%2Fone%20model", "org/one model"),
        (b"org%2fone%20model?after=x", "org/one model"),
        (b"a%25b", "a%b"),
        (b"any-x", "any-x"),
        (b"any-%C3%A9"[:-6], "any-"),
    ],
)
async def test_one_model_is_found_by_its_encoded_name(
    tmp_path: Path, target: bytes, name: str
) -> None:
    async with staged(tmp_path, [answer(b"{}")], routes=NAMED) as stage:
        response = await stage.ask(request(b"/v1/models/" + target, stage.key, method=b"GET"))
        assert response.status == 200
        found = msgspec.json.decode(response.body)
        assert (found["id"], found["object"]) == (name, "model")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "target", [b"other", b"org", b"org/one", b"a%2525b", b"", b"/", b"%", b"%ff", b"x" * 5000]
)
async def test_an_unknown_model_is_not_found(tmp_path: Path, target: bytes) -> None:
    async with staged(tmp_path, [answer(b"{}")], routes=NAMED) as stage:
        response = await stage.ask(request(b"/v1/models/" + target, stage.key, method=b"GET"))
        assert (response.status, error_of(response)["code"]) == (404, "model_not_found")
        assert len(response.body) < 1000


@pytest.mark.asyncio
async def test_a_model_of_others_is_not_found_either(tmp_path: Path) -> None:
    async with staged(tmp_path, [answer(b"{}")]) as stage:
        key = stage.issue(models=["same"])
        response = await stage.ask(request(b"/v1/models/gpt", key, method=b"GET"))
        assert (response.status, error_of(response)["code"]) == (404, "model_not_found")
