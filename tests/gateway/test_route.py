from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy, ModelTerms
from llmrouter.access.principal import Principal
from llmrouter.errors import ModelNotAllowed, ModelNotFound
from llmrouter.gateway.route import FOUND_MAX, LISTED_MAX, Router
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import NAMED_MAX, Policy, Route, Routes
from llmrouter.routing.strategy import Ordered
from tests.support.gateway import Stage, error_of, request, staged
from tests.support.upstream import answer

Maps = dict[str, str]


def deployment(upstream: str = "up", **tags: str) -> Deployment:
    name = f"{upstream}/real"
    condition = Condition(name, BreakerTerms(), now_s=0)
    return Deployment(upstream=upstream, model="real", tags=tags, condition=condition)


UP = deployment()
ORGS = {"narrow": ["gpt", "any-*"]}
TEAMS = {("acme", "ops"): ["same"]}


def routes() -> Routes:
    return Routes(
        [
            Route("gpt", [UP], Ordered, aliases=["gpt-latest"]),
            Route("gpt-*", [UP], Ordered),
            Route("meta/llama", [UP], Ordered),
        ]
    )


def router(*orgs: str, maps: Maps | None = None, **require: str) -> Router:
    """The router of `routes`, with the terms of the org."""
    terms = ModelTerms(models=ModelPatterns(orgs), model_map=ModelMap(maps), require=require)
    return Router(routes(), ModelPolicy({"acme": terms}, {}))


def holder(*models: str, maps: Maps | None = None) -> Principal:
    return Principal(
        org="acme",
        team=None,
        user=None,
        key_id="k" * 12,
        models=ModelPatterns(models),
        model_map=ModelMap(maps),
    )


def said(routed: Router, asked: str, principal: Principal) -> str:
    """What a caller is told who may not have what it asked for."""
    with pytest.raises((ModelNotFound, ModelNotAllowed)) as caught:
        routed.find(asked, principal)
    assert caught.value.param == "model"
    return caught.value.message


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
    found = router(*org).find(asked, holder(*key))

    assert (found.asked, found.route.deployments) == (asked, (UP,))


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


def test_names_that_a_key_may_not_call_take_no_place_among_those_that_are_told_apart() -> None:
    """Else one key could have all names of others share one breaker, without a single call."""
    made: list[str] = []

    def condition_of(name: str) -> Condition:
        made.append(name)
        return Condition(f"up/{name}", BreakerTerms(), now_s=0)

    passing = replace(UP, model=None, condition_of=condition_of)
    routed = Router(Routes([Route("gpt-*", [passing], Ordered)]), ModelPolicy({}, {}))

    for number in range(NAMED_MAX + 1):
        with pytest.raises(ModelNotAllowed):
            routed.find(f"gpt-{number}", holder("other"))
    found = routed.find("gpt-5", holder())

    assert made == ["gpt-5"]
    assert found.route.deployments[0].condition.name == "up/gpt-5"
    assert routed.whole(found) is found.route


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
        assert routed.find("gpt", principal).route.name == "gpt"


def test_names_that_callers_invent_do_not_pile_up() -> None:
    routed, principal = router(), holder()
    for n in range(FOUND_MAX + 10):
        assert routed.find(f"gpt-{n}", principal).route.name == "gpt-*"
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


# ---- mapping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "of_org", "of_key", "served"),
    [
        ("gpt-4", {"gpt-4": "gpt"}, {}, "gpt"),
        ("old", {"old": "gpt"}, {}, "gpt"),
        ("old-3", {"old-*": "gpt-3"}, {}, "gpt-3"),
        ("old", {"old": "gpt-latest"}, {}, "gpt-latest"),
        ("gpt-4", {"gpt-4": "gpt"}, {"gpt-4": "meta/llama"}, "meta/llama"),
        ("gpt-latest", {"gpt-latest": "meta/llama", "gpt": "gpt-3"}, {}, "meta/llama"),
        ("gpt-latest", {"gpt": "meta/llama"}, {}, "meta/llama"),
        ("gpt-latest", {"gpt": "gpt-3"}, {"gpt": "meta/llama"}, "meta/llama"),
        ("old", {"old": "gpt", "gpt": "meta/llama"}, {}, "gpt"),
        ("old", {"old": "gpt-latest", "gpt": "meta/llama"}, {}, "gpt-latest"),
        ("gpt", {"gpt-4": "meta/llama"}, {}, "gpt"),
        ("gpt", {"*": "gpt"}, {}, "gpt"),
    ],
)
def test_a_mapped_name_is_served_by_what_it_is_mapped_to(
    asked: str, of_org: Maps, of_key: Maps, served: str
) -> None:
    """FR-002: by the alias or by the model's own name, and one step only."""
    found = router(maps=of_org).find(asked, holder(maps=of_key))

    assert found.asked == served


def test_what_a_name_is_mapped_to_must_be_allowed_and_the_name_itself_need_not() -> None:
    """FR-002."""
    routed = router("gpt", maps={"gpt-4": "gpt", "gpt": "meta/llama"})

    assert routed.find("gpt-4", holder()).route.name == "gpt"
    assert said(routed, "gpt", holder()) == (
        "this key may not call the model 'meta/llama'; 'gpt' is mapped to it, which your admin can"
        " mend; the nearest that this key may use: 'gpt-4'; GET /v1/models lists all"
    )


def test_a_name_that_is_mapped_to_nothing_is_named_with_what_it_is_mapped_to() -> None:
    """FR-002: a missing mapping is named clearly."""
    assert said(router(), "old", holder(maps={"old": "zzz"})) == (
        "no deployment serves the model 'zzz'; 'old' is mapped to it, which your admin can mend;"
        " GET /v1/models lists what this key may use"
    )


def test_mapped_names_are_listed_where_they_lead_to_what_may_be_used() -> None:
    maps = {"old": "gpt", "older": "meta/llama", "oldest": "zzz", "x-*": "gpt"}

    assert router("gpt", maps=maps).names(holder()) == ["gpt", "gpt-latest", "old"]
    router("gpt", maps=maps).check_listed("old", holder())
    with pytest.raises(ModelNotFound, match="this key may use no model 'older'; the nearest"):
        router("gpt", maps=maps).check_listed("older", holder())


def test_a_key_that_has_changed_is_mapped_anew() -> None:
    routed = router()

    assert routed.find("gpt", holder(maps={"gpt": "meta/llama"})).asked == "meta/llama"
    assert routed.find("gpt", holder()).asked == "gpt"


def test_a_name_is_confirmed_as_it_is_and_not_mapped_again() -> None:
    routed = router("gpt", maps={"old": "gpt", "gpt": "meta/llama"})

    routed.confirm("gpt", holder())
    with pytest.raises(ModelNotAllowed, match="may not call the model 'gpt'"):
        routed.confirm("gpt", holder("other"))
    with pytest.raises(ModelNotAllowed, match="may not call the model 'meta/llama'"):
        routed.confirm("meta/llama", holder())


# ---- required tags ------------------------------------------------------------------------------


EU, US = deployment("eu", region="eu", tier="gold"), deployment("us", region="us")


def tagged(**require: str) -> Router:
    table = [
        Route("both", [EU, US], Ordered),
        Route("american", [US], Ordered, policy=Policy(fallbacks=("both",))),
        Route("european", [EU], Ordered, policy=Policy(fallbacks=("american", "both"))),
    ]
    return Router(Routes(table), ModelPolicy({"acme": ModelTerms(require=require)}, {}))


def test_only_deployments_with_the_required_tags_serve() -> None:
    """FR-002."""
    assert tagged().find("both", holder()).route.deployments == (EU, US)
    assert tagged(region="eu").find("both", holder()).route.deployments == (EU,)
    assert tagged(region="us").find("both", holder()).route.deployments == (US,)


def test_a_model_that_no_deployment_may_serve_is_refused_with_the_tags() -> None:
    """FR-002."""
    assert said(tagged(region="eu", tier="gold"), "american", holder()) == (
        'no deployment of the model \'american\' has region = "eu" and tier = "gold", which is'
        " required for this key; GET /v1/models lists what this key may use"
    )
    assert tagged(region="eu").names(holder()) == ["both", "european"]


# ---- fallbacks ----------------------------------------------------------------------------------


def test_fallbacks_are_those_that_this_key_may_use_in_their_order() -> None:
    """FR-002."""

    def fallbacks(routed: Router, principal: Principal) -> list[tuple[str, int]]:
        found = routed.find("european", principal)
        assert routed.fallbacks(found, principal) is routed.fallbacks(found, principal)
        others = routed.fallbacks(found, principal)
        return [(other.asked, len(other.route.deployments)) for other in others]

    assert fallbacks(tagged(), holder()) == [("american", 1), ("both", 2)]
    assert fallbacks(tagged(), holder("european", "both")) == [("both", 2)]
    assert fallbacks(tagged(region="eu"), holder()) == [("both", 1)]
    assert fallbacks(tagged(), holder("european")) == []
    assert fallbacks(tagged(), holder(maps={"both": "american"})) == [("american", 1)]
    assert fallbacks(tagged(), holder(maps={"both": "european"})) == [("american", 1)]


def test_fallbacks_of_a_key_that_has_changed_are_looked_at_anew() -> None:
    routed = tagged()
    found = routed.find("european", holder())

    assert len(routed.fallbacks(found, holder())) == 2
    assert len(routed.fallbacks(found, holder("both"))) == 1


# ---- nearest names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "models", "near"),
    [
        ("gtp", (), "'gpt'"),
        ("meta", (), "'meta/llama'"),
        ("gpt latest", (), "'gpt-latest', 'gpt'"),
        ("gpt-5", ("gpt",), "'gpt', 'gpt-latest'"),
        ("gtp", ("meta/*",), None),
        ("gpt", ("meta/*",), None),
        ("zzz", (), None),
    ],
)
def test_a_name_that_leads_nowhere_is_answered_with_the_nearest_that_this_key_may_use(
    asked: str, models: tuple[str, ...], near: str | None
) -> None:
    """FR-002: and never with the name of another."""
    message = said(router(), asked, holder(*models))

    if near is None:
        assert message.endswith("; GET /v1/models lists what this key may use")
    else:
        hint = f"; the nearest that this key may use: {near}; GET /v1/models lists all"
        assert message.endswith(hint)


def test_a_refusal_does_not_grow_with_the_name_that_the_caller_chose() -> None:
    for routed, key in ((router(), holder("gpt")), (router(maps={"gpt-*": "zzz"}), holder())):
        assert len(said(routed, "gpt-" + "x" * 1_000_000, key)) < 400


def test_what_is_remembered_for_refusals_does_not_pile_up() -> None:
    routed = router()
    for number in range(LISTED_MAX + 10):
        said(routed, "zzz", structs.replace(holder(), key_id=f"{number:012}"))
    assert len(routed._listed) <= LISTED_MAX


REFUSED: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "by-key": ({"models": ("other*",)}, "gpt", 403, "model_not_allowed"),
    "by-org": ({"org": "narrow"}, "same", 403, "model_not_allowed"),
    "by-team": ({"team": "ops"}, "gpt", 403, "model_not_allowed"),
    "by-key-of-pattern": ({"models": ("any-1",)}, "any-2", 403, "model_not_allowed"),
    "by-alias-of-another": ({"models": ("same",)}, "nick", 403, "model_not_allowed"),
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
        assert await listed(stage, models=("same",)) == ["same"]
        assert await listed(stage, org="narrow") == ["gpt", "nick"]
        assert await listed(stage, team="ops") == ["same"]
        assert await listed(stage, org="narrow", models=("same",)) == []
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
        key = stage.issue(models=("same",))
        response = await stage.ask(request(b"/v1/models/gpt", key, method=b"GET"))
        assert (response.status, error_of(response)["code"]) == (404, "model_not_found")


# ---- for who explains ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maps", "asked", "whose"),
    [
        ({}, "gpt", None),
        ({"gpt": "gpt-x"}, "gpt", "org"),
        ({"gpt": "gpt-x"}, "gpt-latest", "org"),  # an alias is mapped as its model is
        ({"o": "gpt"}, "o", "org"),
    ],
)
def test_says_who_has_another_name_serve(maps: Maps, asked: str, whose: str | None) -> None:
    assert router(maps=maps).mapped_by(asked, holder()) == whose
    assert router(maps=maps).mapped_by(asked, holder(maps={asked: "meta/llama"})) == "key"


def test_the_whole_route_has_the_deployments_that_are_not_for_this_key() -> None:
    routed = tagged(region="eu")

    found = routed.find("both", holder())

    assert found.route.deployments == (EU,)
    assert routed.whole(found).deployments == (EU, US)
    assert routed.policy.required(holder()) == {"region": "eu"}
