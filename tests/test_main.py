"""`python -m llmrouter`."""

import subprocess
import sys


def test_it_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmrouter", "check", "--config", "/nowhere/router.toml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert "/nowhere/router.toml: no such file" in done.stderr


def test_to_import_it_runs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import llmrouter.__main__"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
