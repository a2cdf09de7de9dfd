"""The demo upstream as a child process, on its socket."""

import asyncio
import os
from pathlib import Path

import pytest

from llmrouter.daemon.demochild import DemoChild
from llmrouter.tasks import spawn
from tests.support.demo import counters
from tests.support.waiting import until

pytestmark = pytest.mark.e2e


@pytest.mark.asyncio
async def test_it_serves_on_its_socket_until_we_are_gone(tmp_path: Path) -> None:
    demo = DemoChild(tmp_path, os.environ, asyncio.get_running_loop().time)
    keeper = spawn(demo.child.keep(), name="keep demo")
    try:
        assert demo.path.is_socket()
        assert demo.path.stat().st_mode & 0o777 == 0o600
        counted = await asyncio.to_thread(counters, tmp_path)  # waits until it accepts
        assert counted["requests"] == 0
        process = demo.child.process
        assert process is not None
        demo.child.stopping = True
        demo.close()
        assert process.stdin is not None
        process.stdin.close()  # as our death would close it
        assert await process.wait() == 0
        await until(keeper.done, "it is kept for ever")
    finally:
        keeper.cancel()


def test_a_place_that_is_taken_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "demo.sock").write_text("precious")

    with pytest.raises(FileExistsError):
        DemoChild(tmp_path, os.environ, lambda: 0.0)

    assert (tmp_path / "demo.sock").read_text() == "precious"


def test_repr_shows_the_state(tmp_path: Path) -> None:
    demo = DemoChild(tmp_path, {}, lambda: 0.0)

    assert repr(demo) == (f"<DemoChild {tmp_path}/demo.sock <Child demo pid=None stopping=False>>")
    demo.close()
