"""One daemon for the tests of a module: those that kill it start their own."""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, create_key, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two workers before the demo upstream."""
    with serving(tmp_path_factory.mktemp("daemon"), workers=2) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(daemon: Daemon) -> str:
    """A key of the org `acme`, good for every model."""
    return str(create_key(daemon.config)["key"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many of the faults were borne, as far as any were tried."""
    outcomes: dict[int, list[str]] = defaultdict(list)
    names: dict[int, dict[str, None]] = defaultdict(dict)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for title, value in report.user_properties:
                if title == "fault" and report.when == "call":
                    number, name = value
                    outcomes[number].append(outcome)
                    names[number][name] = None
    if not outcomes:
        return
    terminalreporter.section("scorecard of the faults")
    borne = 0
    for number, found in sorted(outcomes.items()):
        passed = found.count("passed")
        borne += passed == len(found)
        terminalreporter.write_line(
            f"{number:>2}  {passed:>2} of {len(found):<2}  {', '.join(names[number])}"
        )
    terminalreporter.write_line(f"{borne} of {len(outcomes)} faults borne")
