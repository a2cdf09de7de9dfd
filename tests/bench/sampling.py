"""What the processes of a daemon hold, looked at from outside: memory, descriptors, threads."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.support.daemon import Daemon

_STATUS = re.compile(r"^(VmRSS|Threads):\s+(\d+)", re.MULTILINE)
KB_PER_MB = 1_024


class Held(msgspec.Struct, frozen=True):
    """What one process holds."""

    rss_kb: int
    fds: int
    threads: int

    @property
    def rss_mb(self) -> float:
        """Its resident memory."""
        return self.rss_kb / KB_PER_MB


class Sample(msgspec.Struct, frozen=True):
    """What was seen at one time."""

    at_s: float
    """From the start of the load."""
    held: Mapping[int, Held]
    """By process; the supervisor is the first."""
    calls: int = 0
    """Ended since the sample before."""
    p50_s: float = 0.0
    """Of the plain calls among these."""
    p99_s: float = 0.0


def held(daemon: Daemon) -> dict[int, Held]:
    """What the supervisor and each worker hold now; who reads the price list lives but a moment."""
    return {pid: _held(Path(f"/proc/{pid}")) for pid in [daemon.process.pid, *daemon.workers()]}


def _held(process: Path) -> Held:
    status = dict(_STATUS.findall((process / "status").read_text()))
    fds = sum(1 for _ in (process / "fd").iterdir())
    return Held(int(status["VmRSS"]), fds, int(status["Threads"]))


def rss_most(samples: Iterable[Sample], pid: int) -> float:
    """The most memory that a process had in these, in MB."""
    return max(sample.held[pid].rss_mb for sample in samples)


def table(samples: Sequence[Sample]) -> str:
    """The samples, one a line; of each process its memory in MB, descriptors and threads."""
    pids = list(samples[0].held)
    names = ["supervisor", *(f"worker {number}" for number in range(1, len(pids)))]
    head = "".join(f"{name:>18}" for name in names)
    lines = [f"{'s':>7}{'calls':>7}{'p50 ms':>8}{'p99 ms':>8}{head}  (MB fds threads)"]
    for sample in samples:
        cells = "".join(_cell(sample.held.get(pid)) for pid in pids)
        times = f"{sample.p50_s * 1_000:>8.1f}{sample.p99_s * 1_000:>8.1f}"
        lines.append(f"{sample.at_s:>7.1f}{sample.calls:>7}{times}{cells}")
    return "\n  ".join(["", *lines, ""])


def _cell(one: Held | None) -> str:
    if one is None:
        return f"{'-':>18}"
    return f"{one.rss_mb:>9.1f}{one.fds:>5}{one.threads:>4}"
