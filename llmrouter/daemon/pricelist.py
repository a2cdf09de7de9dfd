"""Reading the price list, by a short-lived process that `pricereader` is the program of.

The library that holds the list costs 250 ms and 39 MB to import, so neither the supervisor nor a
worker does: they start a process, and take from it only what their upstreams need. It is given a
JSON object of upstreams, name to base URL, and answers with a `PriceTable`. What it knows came with
the installed library: nothing is fetched, ever.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from llmrouter.daemon.children import ending
from llmrouter.metering.prices import PriceTable

COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "llmrouter.daemon.pricereader")
TIMEOUT_S = 30.0
"""A second is usual; a machine that needs more than this has other troubles."""
_PASSED = ("PATH", "PYTHON", "LD_", "DYLD_", "LANG", "LC_")
"""What the variables start with that an interpreter needs; no credential is handed on."""
_REASON_CHARS_MAX = 200
_ADVICE = "install llmrouter anew with all its dependencies, or set a `price` for every model"
_decode = msgspec.json.Decoder(PriceTable).decode


class PriceListError(Exception):
    """The price list cannot be read; the message says why and what to do."""


async def read(upstreams: Mapping[str, str]) -> PriceTable:
    """The prices of the providers behind `upstreams`, a base URL by name; none are explicit.

    An upstream whose URL no provider is known by is absent from the table. Raises PriceListError.
    """
    try:
        reader = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # a terminal's Ctrl-C is for the supervisor to act on
        )
    except OSError as error:
        raise _unstarted(error) from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            printed, said = await reader.communicate(msgspec.json.encode(upstreams))
    except TimeoutError:
        raise _late() from None
    finally:
        if reader.returncode is None:
            reader.kill()
            await reader.wait()
    return _table(reader.returncode, printed, said)


def read_now(upstreams: Mapping[str, str]) -> PriceTable:
    """The same as `read`, for the command line: it blocks."""
    try:
        done = subprocess.run(  # noqa: S603 - nothing in the command came from outside
            COMMAND,
            input=msgspec.json.encode(upstreams),
            capture_output=True,
            env=_environment(),
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise _unstarted(error) from error
    except subprocess.TimeoutExpired:
        raise _late() from None
    return _table(done.returncode, done.stdout, done.stderr)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}


def _unstarted(error: OSError) -> PriceListError:
    return PriceListError(
        f"the price list cannot be read: its reader cannot be started ({error.strerror}); {_ADVICE}"
    )


def _late() -> PriceListError:
    return PriceListError(
        f"the price list cannot be read: its reader was not done after {TIMEOUT_S:g} s; see what"
        " holds up this machine, or set a `price` for every model"
    )


def _table(status: int | None, printed: bytes, said: bytes) -> PriceTable:
    assert status is not None, "whoever asks has waited for its end"
    if status != 0:
        lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise PriceListError(
            f"the price list cannot be read: its reader ended with {ending(status)}"
            f" ({lines[-1][:_REASON_CHARS_MAX]}); {_ADVICE}"
        )
    try:
        return _decode(printed)
    except msgspec.DecodeError as error:
        raise PriceListError(
            f"the price list cannot be read: what its reader printed is none ({error}); restart the"
            " daemon if llmrouter was upgraded under it"
        ) from error
