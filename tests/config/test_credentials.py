"""Credentials: found where they are said to be, and never shown."""

from pathlib import Path

import pytest

from llmrouter.config.credentials import SECRET_BYTES_MAX, Secret, credentials, source_text
from llmrouter.config.problems import ConfigError
from llmrouter.config.schema import Config, Credential, Upstream

SECRET = "sk-proj-abcDEF123456"  # made up


def config(**sources: Credential | None) -> Config:
    upstreams = {
        name: Upstream(url="https://a.example.com", credential=source)
        for name, source in sources.items()
    }
    return Config(file=Path("router.toml"), upstreams=upstreams)


def refused(environ: dict[str, str], **sources: Credential) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        credentials(config(**sources), environ)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def test_finds_secrets_in_the_environment_and_in_files(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{SECRET}-file\n")

    found = credentials(
        config(a=Credential(env="A_KEY"), b=Credential(file=str(path)), local=None),
        {"A_KEY": f" {SECRET}-env\n"},
    )

    assert {name: secret.reveal() for name, secret in found.items()} == {
        "a": f"{SECRET}-env",
        "b": f"{SECRET}-file",
    }


def test_reports_every_missing_secret_and_shows_none(tmp_path: Path) -> None:
    empty, two_lines, long = tmp_path / "empty", tmp_path / "two", tmp_path / "long"
    empty.write_text("\n")
    two_lines.write_text(f"{SECRET}\n{SECRET}\n")
    long.write_text("x" * (SECRET_BYTES_MAX + 5))

    found = refused(
        {"EMPTY_KEY": "", "ODD_KEY": f"{SECRET}ü"},
        unset=Credential(env="OPENAI_API_KEY"),
        pasted=Credential(env="abcDEF123456"),
        shouted=Credential(env="ABCDEF123456"),
        empty=Credential(env="EMPTY_KEY"),
        odd=Credential(env="ODD_KEY"),
        gone=Credential(file=str(tmp_path / SECRET)),
        folder=Credential(file=str(tmp_path)),
        blank=Credential(file=str(empty)),
        two=Credential(file=str(two_lines)),
        long=Credential(file=str(long)),
    )

    no_secret = "what stands there is no secret: write one line of visible ASCII, without spaces"
    no_value = "the secret there is empty; write it there, on one line"
    not_set = "is not set; export it, then start"
    assert found == [
        f"upstreams.unset.credential.env: the environment variable OPENAI_API_KEY {not_set}",
        f"upstreams.pasted.credential.env: the environment variable {not_set}",
        f"upstreams.shouted.credential.env: the environment variable {not_set}",
        f"upstreams.empty.credential.env: {no_value}",
        f"upstreams.odd.credential.env: {no_secret}",
        "upstreams.gone.credential.file: no such file; create it with mode 0600 "
        "(relative paths start beside router.toml)",
        "upstreams.folder.credential.file: the file cannot be read: is a directory; "
        "let the daemon read it",
        f"upstreams.blank.credential.file: {no_value}",
        f"upstreams.two.credential.file: {no_secret}",
        f"upstreams.long.credential.file: more than {SECRET_BYTES_MAX} bytes stand there; "
        "is it the secret?",
    ]
    assert SECRET not in "\n".join(found)


def test_a_secret_shows_its_source_only() -> None:
    secret = Secret(SECRET, "env OPENAI_API_KEY")

    assert repr(secret) == str(secret) == f"{secret}" == "<Secret from env OPENAI_API_KEY>"
    assert secret == Secret(SECRET, "file /elsewhere")
    assert secret != Secret("other", "env OPENAI_API_KEY")
    with pytest.raises(TypeError, match="unhashable"):
        hash(secret)


@pytest.mark.parametrize(
    ("credential", "text"),
    [
        (None, "no credential"),
        (Credential(env="A_KEY"), "env A_KEY"),
        (Credential(file="/run/a"), "file /run/a"),
    ],
)
def test_names_sources_in_words(credential: Credential | None, text: str) -> None:
    assert source_text(credential) == text
