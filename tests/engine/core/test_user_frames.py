"""Which lines of a traceback are the user's."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from lakeward.engine.core.user_frames import FoldedFrames, UserFrame, innermost, user_trace
from lakeward.operators.udf import MapRows
from lakeward.testing.harness import OperatorHarness


def trace_of(function: Any, *values: Any) -> list[str]:
    try:
        function(*values)
    except Exception as error:
        return [str(line) for line in user_trace(error, function)]
    raise AssertionError("it did not raise")


def inner(text: str) -> Any:
    return json.loads(text)


def outer(text: str) -> Any:
    return inner(text)["a"]


def deep(n: int) -> int:
    return deep(n - 1) if n else 1 // 0


def test_the_user_s_lines_show_their_source_and_libraries_are_folded() -> None:
    lines = trace_of(outer, "{")[1:]  # the first is the test's own
    assert lines[0].endswith(f':{outer.__code__.co_firstlineno + 1} in outer: return inner(text)["a"]')
    assert lines[1].endswith(f":{inner.__code__.co_firstlineno + 1} in inner: return json.loads(text)")
    assert lines[2:] == ["... 3 frames of json"]


def test_of_a_deep_recursion_the_first_and_the_last_lines_show() -> None:
    lines = trace_of(deep, 50)
    assert len(lines) == 5
    assert lines[1] == "... 48 frames of your code"
    assert "1 // 0" in lines[-1]


def test_frames_before_the_user_s_function_are_left_out() -> None:
    schema = pa.schema({"a": pa.int64()})
    with OperatorHarness(MapRows(lambda row: {"a": deep(1)}, schema, schema), schema) as harness:
        with pytest.raises(Exception, match="ZeroDivisionError") as caught:
            harness.send([{"a": 1}])
        trace = getattr(caught.value, "trace", ())
    assert [line.function for line in trace] == ["<lambda>", "deep", "deep"]


def test_without_a_line_of_the_user_s_only_the_number_of_frames_shows() -> None:
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    trace = caught.value.__traceback__
    assert trace is not None
    caught.value.__traceback__ = trace.tb_next  # as if Lakeward had called json.loads
    assert user_trace(caught.value, json.loads) == (FoldedFrames(3, "json"),)
    assert innermost(user_trace(caught.value)) is None


def test_an_installed_package_is_the_user_s_if_the_function_comes_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "acme_jobs.py").write_text(
        textwrap.dedent("""
        def parse(row):
            return row["a"] + 1
        """)
    )
    sys.path.insert(0, str(folder))
    try:
        module: ModuleType = __import__("acme_jobs")
        try:
            module.parse({})
        except KeyError as error:
            own, other = user_trace(error, module.parse), user_trace(error, deep)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("acme_jobs")
    assert isinstance(own[-1], UserFrame)
    assert str(own[-1]).endswith('in parse: return row["a"] + 1')
    assert other[-1] == FoldedFrames(1, "acme_jobs")


def test_a_file_that_is_gone_shows_the_line_number_alone(tmp_path: Path) -> None:
    job = tmp_path / "gone.py"
    scope: dict[str, Any] = {"__name__": "gone"}
    exec(compile("def f():\n    1 // 0\n", str(job), "exec"), scope)
    assert trace_of(scope["f"])[-1] == f"{job}:2 in f"


@pytest.mark.parametrize("scope", [{}, {"__name__": "generated"}])
def test_code_that_was_made_by_exec_is_the_user_s(scope: dict[str, Any]) -> None:
    exec("def made(row):\n    return 1 // 0", scope)
    assert trace_of(scope["made"], 1)[-1] == "<string>:2 in made"
