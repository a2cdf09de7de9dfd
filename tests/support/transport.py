"""A transport and a clock that a test drives by hand."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVarTuple, Unpack

Arguments = TypeVarTuple("Arguments")


class FakeTransport(asyncio.Transport):
    """Keeps what was written; closing takes effect when the test says so."""

    def __init__(self, *, unsent_bytes: int = 0) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self._reading = True
        self.closed = False
        self.aborted = False
        self.ended = False
        self.unsent_bytes = unsent_bytes

    @property
    def written(self) -> bytes:
        """Everything that was written, as one piece."""
        return b"".join(self.writes)

    def take(self) -> bytes:
        """What was written since the last look."""
        written = self.written
        self.writes.clear()
        return written

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing(), "nothing can be written any more"
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high_water_bytes = high

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        assert self._reading, "reading is paused already"
        self._reading = False

    def resume_reading(self) -> None:
        assert not self._reading, "reading is not paused"
        self._reading = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class FakeLoop(asyncio.BaseEventLoop):
    """Only its clock and its timers; every other use is an error."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now_s

    def get_debug(self) -> bool:
        return False

    def is_closed(self) -> bool:
        return True

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Any = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(self.now_s + delay, callback, args, self)
        self.timers.append(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers.remove(handle)

    def advance(self, seconds: float) -> None:
        """Let time pass, and what was due by then happen in its order."""
        end_s = self.now_s + seconds
        while due := [timer for timer in self.timers if timer.when() <= end_s]:
            timer = min(due, key=lambda timer: timer.when())
            self.timers.remove(timer)
            self.now_s = max(self.now_s, timer.when())
            timer._run()
        self.now_s = end_s
