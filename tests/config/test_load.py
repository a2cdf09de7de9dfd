"""Reading router.toml: what is refused, in which words, and what loads."""

import copy
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.access.patterns import PATTERNS_MAX, ModelPatterns
from llmrouter.config.load import load, workers
from llmrouter.config.notes import notes
from llmrouter.config.problems import ConfigError
from llmrouter.config.schema import Config, Server, Settings
from tests.config.files import BAD, DEMO, DESIGN, NOT_TOML, OK, SECRET

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named as operators name them: relative to where they stand."""
    monkeypatch.chdir(tmp_path)


def loaded(text: str) -> Config:
    path = Path("router.toml")
    path.write_text(text, encoding="utf-8")
    return load(path)


def refused(content: str | bytes) -> list[str]:
    """The problems with `content`, without the name of the file before each."""
    path = Path("router.toml")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert all(problem.file == "router.toml" for problem in caught.value.problems)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem).removeprefix("router.toml: ") for problem in caught.value.problems]


@pytest.mark.parametrize(("text", "problems"), BAD.values(), ids=BAD.keys())
def test_refuses_with_key_value_and_what_to_do(text: str, problems: tuple[str, ...]) -> None:
    """FR-008: a time-out or size limit that is mistyped is refused, never ignored."""
    found = refused(text)

    assert found == list(problems)
    assert SECRET not in "\n".join(found)


@pytest.mark.parametrize("table", ["orgs.acme", "orgs.acme.teams.a"])
def test_refuses_more_patterns_than_a_policy_holds(table: str) -> None:
    """What loads must also serve: a policy takes no more."""
    names = [f"gpt-{number}*" for number in range(PATTERNS_MAX + 1)]

    (found,) = refused(f"{OK}[{table}]\nmodels = {names}\n")

    assert (
        found == f"{table}.models: must be a list of 1 to 1000 entries (value a list with entries)"
    )
    assert len(ModelPatterns(names[1:]).texts) == PATTERNS_MAX
    loaded(f"{OK}[{table}]\nmodels = {names[1:]}\n")


@pytest.mark.parametrize(("content", "problem"), NOT_TOML)
def test_refuses_what_is_no_toml_by_line_and_column(content: str | bytes, problem: str) -> None:
    assert refused(content) == [problem]


def test_says_how_to_get_a_file_that_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        load(Path("none.toml"))

    assert str(caught.value) == (
        "none.toml: no such file; name one with --config or $LLMROUTER_CONFIG, "
        "or start from the commented router.toml that llmrouter ships with"
    )


def test_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory; name a file that the daemon may read"):
        load(tmp_path)


def test_loads_the_example_of_the_design() -> None:
    Path("tls.crt").touch()
    Path("tls.key").touch()

    config = loaded(DESIGN)

    assert list(config.upstreams) == ["openai", "claude", "azure-eu", "demo"]
    assert [deployment.weight for deployment in config.models["gpt-4o"].deployments] == [3, 1]
    assert config.orgs["acme"].limits[1].tokens == 200_000
    assert config.auth.oidc["corp"].claims.teams == "groups"


def test_takes_paths_from_the_directory_of_the_file(tmp_path: Path) -> None:
    Path("etc").mkdir()
    text = (
        'state = "var"\n[server]\nlisten = ["unix:run.sock", "127.0.0.1:0"]\n'
        '[upstreams.a]\nurl = "https://a.example.com"\ncredential = { file = "../a.key" }\n'
    )
    Path("etc/router.toml").write_text(text)

    config = load(Path("etc/router.toml"))

    assert config.state == str(tmp_path / "etc/var")
    assert config.server.listen == (f"unix:{tmp_path}/etc/run.sock", "127.0.0.1:0")
    credential = config.upstreams["a"].credential
    assert credential is not None
    assert credential.file == str(tmp_path / "etc/../a.key")


def test_an_empty_file_has_every_default() -> None:
    config = loaded("")

    assert config == Config(file=Path("elsewhere.toml"), state=config.state)
    assert config.given == ()


def test_takes_a_file_with_a_byte_order_mark() -> None:
    assert loaded("\ufeff" + OK).models.keys() == {"gpt-4o"}


def test_remembers_which_keys_stand_in_the_file() -> None:
    config = loaded(DEMO + "[server.limits]\nqueued = 5\n")

    assert config.given == (
        ("upstreams",),
        ("upstreams", "demo"),
        ("upstreams", "demo", "url"),
        ("server",),
        ("server", "limits"),
        ("server", "limits", "queued"),
    )


def test_runs_a_worker_for_each_core_that_it_may_use() -> None:
    assert workers(Server()) == len(os.sched_getaffinity(0))
    assert workers(Server(workers=3)) == 3


def test_loading_brings_no_terminal_library_into_a_worker() -> None:
    """Workers load the configuration too, and are to stay small."""
    script = (
        "import sys, pathlib, llmrouter.config.load as l, llmrouter.config.credentials as c\n"
        "config = l.load(pathlib.Path('router.toml')); c.credentials(config, {})\n"
        "sys.exit(bool({'typer', 'rich', 'click', 'asyncio', 'difflib'} & set(sys.modules)))"
    )

    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)

    assert result.returncode == 0


# The files that we ship


def test_the_shipped_file_loads_with_nothing_to_note() -> None:
    config = load(ROOT / "router.toml")

    assert notes(config) == []
    assert config.server.listen == "127.0.0.1:4000"
    assert set(config.models) == {"demo", "demo-*"}
    assert config.models["demo"].deployments[0].upstream == "demo"
    assert config.upstreams["demo"].url == "builtin:demo"


def uncommented() -> str:
    """The shipped file with every commented key and table taken in."""
    text = (ROOT / "router.toml").read_text(encoding="utf-8")
    return re.sub(r"(?m)^# ( *\[[a-z].*\]$|[a-z_]+ = )", r"\1", text)


def test_the_blocks_to_uncomment_in_the_shipped_file_load_too() -> None:
    Path("tls.crt").touch()
    Path("tls.key").touch()

    config = loaded(uncommented())

    assert set(config.upstreams) == {"demo", "openai", "local"}
    assert set(config.models) == {"demo", "demo-*", "gpt-4o", "gpt-*", "qwen3"}
    assert set(config.orgs) == {"acme", "globex"}


def test_the_shipped_file_shows_every_key_and_true_defaults() -> None:
    shown = tomllib.loads(uncommented())

    assert set(shown) == set(Settings.__struct_fields__)
    assert set(shown["server"]) == set(Server.__struct_fields__)
    for table, defaults in (("limits", Server().limits), ("timeouts", Server().timeouts)):
        assert shown["server"][table] == {
            name: getattr(defaults, name) for name in defaults.__struct_fields__
        }
    for group, name in (("upstreams", "demo"), ("models", "demo"), ("orgs", "acme")):
        members = loaded(OK + "[orgs.acme]\n")
        sample = next(iter(getattr(members, group).values()))
        assert set(shown[group][name]) == set(sample.__struct_fields__), group


EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_load_with_nothing_to_note(path: Path) -> None:
    assert notes(load(path)) == []


# Any file at all

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.sampled_from(["demo", "gpt-*", "*", "unix:", "fd:3", "model:", "https://[", "a:1", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
).filter(lambda value: value is not None)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of nested tables and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_loads_or_refuses_whatever_stands_in_the_file(data: st.DataObject) -> None:
    raw = copy.deepcopy(tomllib.loads(DESIGN))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(_places(raw))))
        action = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove":
            del container[key]
        elif action == "add" and isinstance(container, dict):
            container[data.draw(st.text(max_size=6))] = data.draw(_VALUES.filter(_is_toml))
        else:
            container[key] = data.draw(_VALUES.filter(_is_toml))
        if not raw:
            break

    path = Path("router.toml")
    path.write_text(tomli_w.dumps(raw), encoding="utf-8")
    outcome = config_or_refusal(path)

    if isinstance(outcome, ConfigError):
        assert outcome.problems
        assert all(problem.key and problem.message for problem in outcome.problems)
    else:
        assert outcome.file == path


def config_or_refusal(path: Path) -> Config | ConfigError:
    try:
        return load(path)
    except ConfigError as error:
        return error


def _is_toml(value: Any) -> bool:
    """Whether the writer can write it; text may hold what TOML cannot, such as surrogates."""
    try:
        return bool(tomllib.loads(tomli_w.dumps({"a": value})) or True)
    except (ValueError, TypeError):
        return False
