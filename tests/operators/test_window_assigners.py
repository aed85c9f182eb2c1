import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.core.errors import ConfigError
from lakeward.operators.windows.assigners import WindowAssigner


def assigners() -> st.SearchStrategy[WindowAssigner]:
    return st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
        lambda pair: st.integers(0, pair[1] - 1).map(lambda offset: WindowAssigner(*pair, offset))
    )


def windows_containing(windows: WindowAssigner, time: int) -> list[int]:
    """The definition, written out: every start on the grid whose window contains the time."""
    candidates = range(time - windows.size_us + 1, time + 1)
    return [start for start in candidates if (start - windows.offset_us) % windows.slide_us == 0]


@given(assigners(), st.integers(-100, 100))
@settings(max_examples=150, deadline=None)
def test_the_windows_of_a_times_pane_are_the_windows_that_contain_the_time(windows: WindowAssigner, time: int) -> None:
    pane = int(windows.pane_starts(np.array([time]))[0])
    expected = windows_containing(windows, time)
    assert pane <= time < pane + windows.pane_us
    assert list(windows.windows_of(pane)) == expected
    assert windows.last_fire_time_us(pane) == (expected[-1] + windows.size_us - 1 if expected else None)
    for start in expected:
        assert pane in windows.panes_of(start)


@given(assigners(), st.integers(-60, 60), st.integers(-80, 80), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_the_windows_due_are_those_that_fire_between_two_watermarks(
    windows: WindowAssigner, time: int, after: int, step: int
) -> None:
    pane = int(windows.pane_starts(np.array([time]))[0])
    due = [s for s in windows.windows_of(pane) if after < windows.fire_time_us(s) <= after + step]
    assert list(windows.windows_due(pane, after, after + step)) == due


def test_panes_before_1970_are_floored_not_truncated() -> None:
    windows = WindowAssigner(10, 10)
    assert windows.pane_starts(np.array([-1, -10, -11, 0])).tolist() == [-10, -10, -20, 0]


def test_a_tumbling_window_is_its_own_single_pane() -> None:
    windows = WindowAssigner(10_000_000, 10_000_000)
    assert windows.tumbling
    assert list(windows.panes_of(20_000_000)) == [20_000_000]
    assert windows.fire_time_us(20_000_000) == 29_999_999


@pytest.mark.parametrize(("size", "slide", "offset"), [(0, 1, 0), (1, 0, 0), (5, 5, 5), (5, 5, -1)])
def test_impossible_windows_are_refused(size: int, slide: int, offset: int) -> None:
    with pytest.raises(ConfigError):
        WindowAssigner(size, slide, offset)


def test_a_slide_that_would_need_tiny_panes_is_refused() -> None:
    with pytest.raises(ConfigError, match="panes of only 1 us"):
        WindowAssigner(3_600_000_000, 7_777_777)
