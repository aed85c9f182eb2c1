"""How the conformance suites become test classes: one test method a check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Suite = TypeVar("Suite")
Check = Callable[[Any], None]


def with_tests(checks: Iterable[Check], run: Callable[[Any, Check], None]) -> Callable[[type[Suite]], type[Suite]]:
    """Give a class a test method for every check, named as the check is. A failure says what the check is about.

    >>> def it_works(case): ...
    >>> with_tests([it_works], lambda suite, check: check(suite))(type("Suite", (), {})).test_it_works.__name__
    'test_it_works'

    Args:
        checks: The checks.
        run: Runs one of them for an instance of the class.
    """

    def give(suite: type[Suite]) -> type[Suite]:
        for check in checks:
            method = _method(check, run)
            setattr(suite, method.__name__, method)
        return suite

    return give


def _method(check: Check, run: Callable[[Any, Check], None]) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        try:
            run(self, check)
        except Exception as error:
            error.add_note(f"what is checked: {inspect.getdoc(check)}")
            raise

    test.__name__ = f"test_{check.__name__.removeprefix('check_')}"
    test.__qualname__ = f"Suite.{test.__name__}"
    test.__doc__ = check.__doc__
    return test
