"""CPU time of process trees, and who runs where."""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_CPU_CLOCK = 2
"""Of the kernel's clocks for a process, the one that counts its CPU time in nanoseconds."""


def tree(root: int) -> list[int]:
    """The process `root`, and all that descend from it."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                children[int(stat[1])].append(int(entry.name))
    found = [root]
    for process in found:
        found += children[process]
    return found


def cpu_s(root: int) -> float:
    """The CPU time that the tree of `root` has taken, as far as its processes live.

    Their clocks are read instead of /proc/PID/stat, which counts in steps of 10 ms.
    """
    total_s = 0.0
    for process in tree(root):
        with contextlib.suppress(OSError):
            total_s += time.clock_gettime(~process << 3 | _CPU_CLOCK)
    return total_s


class Cpus:
    """The first CPU for what is measured, the others for the rest; all for all if there is one."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        first, *others = sorted(self._all)
        self._measured, self._rest = {first}, set(others) or {first}

    @contextlib.contextmanager
    def for_measured(self) -> Iterator[None]:
        """What is started meanwhile is what is measured."""
        yield from self._on(self._measured)

    @contextlib.contextmanager
    def for_rest(self) -> Iterator[None]:
        """What is started meanwhile, and this thread, keep out of its way."""
        yield from self._on(self._rest)

    def _on(self, cpus: set[int]) -> Iterator[None]:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)
