"""Builds the package with setuptools, and compiles the path of a call with mypyc.

Compiled or interpreted, it is the same source, and it does the same: where there is no C compiler
it is installed interpreted, with a warning, and a call costs half as much again. `compiled` under
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
from setuptools.errors import CCompilerError, ExecError, PlatformError

INTERPRETED = "LLMROUTER_INTERPRETED"
"""Where this is set in the environment, nothing is compiled."""


class BuildExt(build_ext):
    """Learns what there is to compile when it is asked to, and not before: that takes seconds.

    All of it is compiled, or nothing: a module without the library could not be imported.
    """

    def run(self) -> None:
        """Compile; into the checkout, where that is what is installed."""
        self._remove()  # a module that is compiled no more would still be taken for it
        if os.environ.get(INTERPRETED) or not self._is_compiled():
            self._compile([])

    def _is_compiled(self) -> bool:
        try:
            self._compile(_extensions())
        except (CCompilerError, ExecError, PlatformError) as error:
            warnings.warn(f"llmrouter is not compiled: {error}", stacklevel=1)
            self._remove()
            return False
        return True

    def _remove(self) -> None:
        """Remove what was compiled before: in the checkout only where that is installed itself."""
        in_place = self.inplace or self.editable_mode
        for directory in ("llmrouter", self.build_lib) if in_place else (self.build_lib,):
            for earlier in Path(directory).rglob("*.so"):
                earlier.unlink()

    def _compile(self, extensions: list[Extension]) -> None:
        self.distribution.ext_modules = extensions
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
    try:
        from mypyc.build import mypycify
    except ImportError as error:  # where pip was told not to fetch what builds it
        raise CCompilerError(f"mypyc cannot be imported ({error})") from error
    project = tomllib.loads(Path("pyproject.toml").read_text())
    sources = [f"llmrouter/{module}.py" for module in project["tool"]["llmrouter"]["compiled"]]
    try:
        extensions = mypycify(
            ["--config-file=.build/mypy.ini", *sources],
            opt_level="1",  # as fast as "2", and sooner built
            debug_level="0",
            group_name="llmrouter.native",
        )
    except SystemExit as ended:  # it has printed why
        raise CCompilerError("mypyc found errors, see above") from ended
    if os.name == "posix":
        for extension in extensions:  # they call each other without the linker's tables: 5 % less
            extension.extra_compile_args.append("-fvisibility=hidden")
    return extensions
