"""Builds the package with setuptools, and compiles the path of a call with mypyc.

Compiled or interpreted, it is the same source, and it does the same: where there is no C compiler
it is installed interpreted, with a warning, and a call costs about twice as much. `compiled` under
[tool.llmrouter] in pyproject.toml names the modules; they call each other directly, and so they
become one library, `llmrouter/native__mypyc`, and a module beside each source that opens it.

What may be compiled, and what must be minded there: tests/test_compiled.py.
"""

import os
import tomllib
import warnings
from pathlib import Path

from setuptools import Extension
from setuptools.build_meta import *  # noqa: F403 - a build backend is setuptools', and what follows
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

INTERPRETED = "LLMROUTER_INTERPRETED"
"""Where this is set in the environment, nothing is compiled."""


class BuildExt(build_ext):
    """Learns what there is to compile when it is asked to, and not before: that takes seconds."""

    def run(self) -> None:
        """Compile; into the checkout, where that is what is installed."""
        for earlier in Path("llmrouter").rglob("*.so"):
            earlier.unlink()  # a module that is compiled no more would still be taken for it
        self.distribution.ext_modules = [] if os.environ.get(INTERPRETED) else _extensions()
        self.swig_opts = None  # all else of it can be made final twice
        self.finalize_options()
        super().run()


class Sdist(sdist):
    """Takes along what builds the rest."""

    def make_distribution(self) -> None:
        """Pack what was found, and this folder."""
        self.filelist.extend(str(path) for path in Path(".build").glob("*.*"))
        super().make_distribution()


def _extensions() -> list[Extension]:
    from mypyc.build import mypycify

    project = tomllib.loads(Path("pyproject.toml").read_text())
    sources = [f"llmrouter/{module}.py" for module in project["tool"]["llmrouter"]["compiled"]]
    try:
        extensions = mypycify(
            ["--config-file=.build/mypy.ini", *sources],
            opt_level="1",  # as fast as "2", and sooner built
            debug_level="0",
            group_name="llmrouter.native",
        )
    except SystemExit:  # how it ends where it finds an error, which it has printed
        warnings.warn("llmrouter could not be compiled and runs interpreted", stacklevel=2)
        return []
    for extension in extensions:
        extension.optional = True  # no C compiler: a warning, and no more
    return extensions
