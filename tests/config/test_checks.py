"""Checks that need a file system, or have more cases than `test_load` has rows."""

from pathlib import Path

import pytest

from llmrouter.config.checks import CHECKS, auth_findings, server_findings, upstream_findings
from llmrouter.config.schema import Auth, Credential, Oidc, Server, Settings, Tls, Upstream


def test_settings_with_nothing_but_defaults_pass_every_check() -> None:
    assert [finding for check in CHECKS for finding in check(Settings())] == []


def test_takes_tls_files_that_are_there(tmp_path: Path) -> None:
    cert, key = tmp_path / "a.crt", tmp_path / "a.key"
    cert.touch()
    key.touch()

    settings = Settings(server=Server(tls=Tls(cert=str(cert), key=str(key))))

    assert list(server_findings(settings)) == []


def test_refuses_a_directory_as_a_tls_file(tmp_path: Path) -> None:
    settings = Settings(server=Server(tls=Tls(cert=str(tmp_path), key=str(tmp_path))))

    keys = [key for key, _ in server_findings(settings)]

    assert keys == [("server", "tls", "cert"), ("server", "tls", "key")]


def test_state_may_be_a_directory_or_nothing_yet(tmp_path: Path) -> None:
    for state in (tmp_path, tmp_path / "new"):
        assert list(server_findings(Settings(state=str(state)))) == []


def test_refuses_a_state_that_can_be_no_path() -> None:
    assert [key for key, _ in server_findings(Settings(state="a\0b"))] == [("state",)]


@pytest.mark.parametrize(
    ("credential", "member"),
    [
        (Credential(env="OPENAI_API_KEY"), None),
        (Credential(env="_lower1"), None),
        (Credential(file="/run/secrets/a"), None),
        (Credential(env="1KEY"), "env"),
        (Credential(env="A-KEY"), "env"),
        (Credential(env="sk hunter2"), "env"),
        (Credential(file="hunter2\0"), "file"),
    ],
)
def test_credentials_name_a_place_and_messages_never_show_it(
    credential: Credential, member: str | None
) -> None:
    upstream = Upstream(url="https://a.example.com", credential=credential)

    found = list(upstream_findings(Settings(upstreams={"a": upstream})))

    assert [key[-1] for key, _ in found] == ([member] if member else [])
    assert not any("hunter2" in message for _, message in found)


@pytest.mark.parametrize(
    ("issuer", "is_good"),
    [
        ("https://login.example.com", True),
        ("https://login.example.com/tenant/v2.0", True),
        ("http://localhost:8080/realms/a", True),
        ("http://login.example.com", False),
        ("https://login.example.com?x=1", False),
        ("https://a:b@login.example.com", False),
        ("https://[::1", False),
        ("https:///x", False),
        ("login.example.com", False),
    ],
)
def test_issuers_are_https_except_on_this_machine(issuer: str, is_good: bool) -> None:
    settings = Settings(auth=Auth(oidc={"corp": Oidc(issuer=issuer, audience="a")}))

    assert (list(auth_findings(settings)) == []) is is_good
