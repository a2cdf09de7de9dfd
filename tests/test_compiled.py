"""What is compiled, mypyc must be able to compile to the same: some of Python it does not.

Found by trying, with mypy 2.4 on Python 3.11; see also https://mypyc.readthedocs.io/en/latest/differences_from_python.html:
- a msgspec.Struct loses its annotations, and the keywords of its class;
- an await while an exception is handled (in `except` or `finally`) leaves it handled for ever; and
  after it a bare `raise` has nothing to raise, and crashes. `async with` waits there, too: that of
  `asyncio.timeout` goes, because it waits for nothing;
- a function that calls itself is not stopped before the stack is full, and crashes there;
- an attribute that was set to None is taken to be None for the rest of the function, whatever is
  called in between: what looks at it again belongs into a function of its own;
- interpreted classes cannot inherit from compiled ones, nor be put in their place.
"""

import ast
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compiled import compiled, library


@pytest.mark.skipif("LLMROUTER_INTERPRETED" in os.environ, reason="asked for")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_path_is_compiled() -> None:
    assert library() is not None


@pytest.mark.parametrize("path", compiled(), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_what_is_compiled_is_what_can_be(path: Path) -> None:
    tree = ast.parse(path.read_text())
    structs = [
        f"{node.name}, in line {node.lineno}, is a msgspec.Struct"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).endswith("Struct")
    ]
    awaits = [
        f"line {node.lineno} waits while an exception is handled: do it afterwards"
        for handling in ast.walk(tree)
        for node in handled(handling)
        if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor | ast.Yield)
    ]
    recursions = [
        f"{function.name} calls itself, in line {node.lineno}"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in own(function)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in (function.name, f"self.{function.name}")
    ]
    stale = [
        f"{function.name}: {name} was set to None, and line {line} looks at it again"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for name, line in looked_at_again(function)
    ]
    assert structs + awaits + recursions + stale == []


def looked_at_again(function: ast.AST) -> Iterator[tuple[str, int]]:
    """The attributes that were set to None, and the lines that look at them afterwards."""
    uses: list[tuple[int, bool, str, bool]] = []
    for node in own(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute):
                    is_none = isinstance(node.value, ast.Constant) and node.value.value is None
                    uses.append((node.lineno, True, ast.unparse(target), is_none))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            uses.append((node.lineno, False, ast.unparse(node), False))
    nothing: set[str] = set()
    for line, is_set, name, is_none in sorted(uses):
        if not is_set and name in nothing:
            yield name, line
        elif is_set:
            (nothing.add if is_none else nothing.discard)(name)


def handled(node: ast.AST) -> Iterator[ast.AST]:
    """What runs while an exception is handled, of one statement."""
    match node:
        case ast.ExceptHandler():
            yield from own(node)
        case ast.Try(finalbody=[*statements]):
            for statement in statements:
                yield from own(statement)
        case ast.AsyncWith(items=[ast.withitem(context_expr=ast.Call(func=func))]):
            if ast.unparse(func) != "asyncio.timeout":
                yield node
        case ast.AsyncWith():
            yield node
        case _:
            pass


def own(node: ast.AST) -> Iterator[ast.AST]:
    """What is in it, but for functions of their own."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from own(child)
