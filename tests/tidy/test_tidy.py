"""Reads the project's own source and holds its style: the numbers and rules of docs/style.md."""

from __future__ import annotations

import ast
import gc
import os
import re
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("tidy")  # one worker reads the source, not each

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("engine", "operators", "connectors", "lakeward")

FUNCTION_LINES_MEDIAN, FUNCTION_LINES_P90, FUNCTION_LINES_MAX = 8, 30, 70
FILE_LINES_MEDIAN, FILE_LINES_MAX = 200, 800
CONSTRUCTOR_ARGUMENTS_MAX = 6

WIDE_CONSTRUCTORS = {
    "connectors/files/sink.py: FilesSink": "what users write: keywords, each with a default",
    "connectors/kafka/source.py: KafkaSource": "what users write: keywords, each with a default",
    "connectors/nexmark/source.py: NexmarkSource": "what users write: keywords, each with a default",
}
"""Constructors of more than six arguments, each with the reason. All must be keyword-only after the first."""

EVALUATED = {
    "engine/api/row_types.py": "annotations of the user's own functions, which are strings under future annotations",
    "operators/rows.py": "a row constructor compiled from field names, which are checked to be identifiers",
}
"""Files that may call eval, each with the reason. What it evaluates never comes from data."""


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A source file, read."""

    name: str
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1


@dataclass(frozen=True, slots=True)
class Function:
    """A function, and how long it is without its docstring."""

    place: str
    lines: int


@cache
def tracked() -> tuple[str, ...]:
    """All files of the project, by git; by walking where there is no git (an unpacked archive)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:
        names = [os.path.relpath(Path(folder) / name, ROOT) for folder, _, files in os.walk(ROOT) for name in files]
        names = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file. A million nodes stay for good: the collector is kept from going through them."""
    gc.disable()
    try:
        return tuple(read(name) for name in tracked() if name.endswith(".py"))
    finally:
        gc.freeze()
        gc.enable()


def read(name: str) -> Module:
    text = (ROOT / name).read_text()
    tree = ast.parse(text)
    return Module(name, text, tree, tuple(ast.walk(tree)))


def sources() -> list[Module]:
    """The Python files that are shipped."""
    return [module for module in modules() if module.name.split("/")[0] in SOURCE_FOLDERS]


def functions(of: list[Module] | tuple[Module, ...]) -> list[Function]:
    return [
        Function(f"{module.name}:{node.lineno} {node.name}", length(node))
        for module in of
        for node in module.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@cache
def uses(module: Module) -> list[tuple[int, str]]:
    """Dotted names that are used, and imported modules, with their lines."""
    return list(find_uses(module.nodes))


def find_uses(nodes: tuple[ast.AST, ...]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, f"{node.func.id}()"
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def test_functions_are_short() -> None:
    lengths = sorted(function.lines for function in functions(sources()))
    assert statistics.median(lengths) <= FUNCTION_LINES_MEDIAN
    assert lengths[len(lengths) * 9 // 10] <= FUNCTION_LINES_P90


def test_no_function_is_too_long() -> None:
    assert [f for f in functions(modules()) if f.lines > FUNCTION_LINES_MAX] == []


def test_files_are_short() -> None:
    assert statistics.median(module.lines for module in sources()) <= FILE_LINES_MEDIAN
    assert [(m.name, m.lines) for m in modules() if m.lines > FILE_LINES_MAX] == []


def wide_constructors() -> dict[str, ast.ClassDef]:
    found = {}
    for module in sources():
        for node in module.nodes:
            if isinstance(node, ast.ClassDef) and constructor_width(node) > CONSTRUCTOR_ARGUMENTS_MAX:
                found[f"{module.name}: {node.name}"] = node
    return found


def constructor_width(node: ast.ClassDef) -> int:
    """How many arguments a class takes; of a dataclass, those it must be given; of a frozen one, the cure, none."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return len(item.args.args) - 1 + len(item.args.kwonlyargs)
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(d.startswith("dataclass") and "frozen=True" not in d for d in decorators):
        return sum(isinstance(item, ast.AnnAssign) and item.value is None for item in node.body)
    return 0


def test_constructors_take_few_arguments() -> None:
    assert sorted(set(wide_constructors()) - set(WIDE_CONSTRUCTORS)) == []


def test_the_list_of_wide_constructors_is_not_longer_than_needed() -> None:
    wide = wide_constructors()
    assert sorted(set(WIDE_CONSTRUCTORS) - set(wide)) == []
    for place in WIDE_CONSTRUCTORS:
        (made,) = (i for i in wide[place].body if isinstance(i, ast.FunctionDef) and i.name == "__init__")
        assert len(made.args.args) <= 3, f"{place}: all but the first arguments are keyword-only"


def test_nothing_is_left_to_do() -> None:
    left = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
    assert [m.name for m in modules() if left.search(m.text)] == []


@pytest.mark.parametrize("banned", ["pickle", "cloudpickle", "dill", "marshal", "shelve", "exec()", "eval()"])
def test_nothing_executes_what_was_stored(banned: str) -> None:
    allowed = EVALUATED if banned == "eval()" else {}
    found = [f"{m.name}:{line}" for m in sources() if m.name not in allowed for line, used in uses(m) if used == banned]
    assert found == []


def test_the_list_of_evaluating_files_is_not_longer_than_needed() -> None:
    evaluating = {m.name for m in sources() if any(used == "eval()" for _, used in uses(m))}
    assert evaluating == set(EVALUATED)


def test_time_comes_from_the_clock() -> None:
    clocks = ("time.time", "time.time_ns", "time.sleep", "time.monotonic", "time.perf_counter", "datetime.now",
              "datetime.utcnow", "datetime.today", "date.today")  # fmt: skip
    allowed = ("engine/core/clock.py", "lakeward/testing/")
    found = [
        f"{module.name}:{line} {used}"
        for module in sources()
        if not module.name.startswith(allowed)
        for line, used in uses(module)
        if used in clocks
    ]
    assert found == []


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler of everything does nothing with what it got."""
    caught = ast.unparse(handler.type) if handler.type is not None else "everything"
    idle = all(isinstance(item, ast.Pass | ast.Continue) or is_ellipsis(item) for item in handler.body)
    return handler.type is None or (idle and caught in ("Exception", "BaseException"))


def is_ellipsis(item: ast.stmt) -> bool:
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and item.value.value is ...


def test_no_error_is_swallowed() -> None:
    found = [
        f"{module.name}:{node.lineno}"
        for module in modules()
        for node in module.nodes
        if (isinstance(node, ast.ExceptHandler) and swallows(node))
        or (isinstance(node, ast.Call) and ast.unparse(node) in ("suppress(Exception)", "suppress(BaseException)"))
    ]
    assert found == []


def public_definitions(module: Module) -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions of a module, and public methods of public classes."""
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in module.tree.body:
        if isinstance(node, definitions) and not node.name.startswith("_"):
            yield node.name, node
            inner = node.body if isinstance(node, ast.ClassDef) else []
            for item in inner:
                if isinstance(item, definitions) and not item.name.startswith("_") and not is_overload(item):
                    yield f"{node.name}.{item.name}", item


def is_overload(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(d) in ("overload", "typing.overload") or ".setter" in ast.unparse(d)
               for d in node.decorator_list)  # fmt: skip


def test_what_is_public_says_what_it_is() -> None:
    missing = [
        f"{module.name}: {name}"
        for module in sources()
        for name, node in public_definitions(module)
        if ast.get_docstring(node) is None  # type: ignore[arg-type]
    ]
    assert missing == []


def test_every_module_says_what_it_is() -> None:
    assert [m.name for m in sources() if ast.get_docstring(m.tree) is None] == []


def sort_key(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions, each by name."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


def test_lists_of_public_names_are_sorted() -> None:
    for module in modules():
        for node in module.tree.body:
            targets = [ast.unparse(t) for t in node.targets] if isinstance(node, ast.Assign) else []
            if targets == ["__all__"] and isinstance(node.value, ast.List | ast.Tuple):  # type: ignore[attr-defined]
                names = [str(ast.literal_eval(item)) for item in node.value.elts]  # type: ignore[attr-defined]
                assert names == sorted(names, key=sort_key), module.name


def texts() -> Iterator[tuple[str, int, str]]:
    """Every line of every tracked text file."""
    for name in tracked():
        try:
            lines = (ROOT / name).read_text().splitlines()
        except UnicodeDecodeError:
            continue
        yield from ((name, number, line) for number, line in enumerate(lines, 1))


def test_no_package_index_is_named() -> None:
    # Put together from pieces, so that this file does not name them either.
    hosts = [name + "." + end for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "com"),
             ("crates", "io"), ("rubygems", "org"), ("anaconda", "org"), ("proxy.golang", "org"))]  # fmt: skip
    pattern = re.compile("|".join(map(re.escape, hosts)), re.I)
    assert [f"{name}:{number}" for name, number, line in texts() if pattern.search(line)] == []


def test_the_project_speaks_of_itself_alone() -> None:
    workplace = re.compile(r"(?<![\w.$}{/*:])/(?:work|root|home/\w+)/|/tmp/" + r"helper|\bco-?authored-" + "by:", re.I)
    assert [f"{name}:{number}: {line}" for name, number, line in texts() if workplace.search(line)] == []


@pytest.mark.parametrize("folder", ["connectors", "engine", "operators"])
def test_the_links_that_make_the_package_are_there(folder: str) -> None:
    link = ROOT / "lakeward" / folder
    assert link.is_symlink(), f"lakeward/{folder} must be a link to ../{folder}"
    assert os.readlink(link) == f"../{folder}"
    assert (link / "__init__.py").samefile(ROOT / folder / "__init__.py")
