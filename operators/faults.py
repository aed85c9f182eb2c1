"""What an exception of the user's code says: that the code is wrong, or that another system is away."""

from __future__ import annotations

import json

_MISTAKES = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    NameError,
    ArithmeticError,
    AssertionError,
    ImportError,
    NotImplementedError,
)
_FAULTS = (OSError, json.JSONDecodeError)


def is_mistake(error: BaseException) -> bool:
    """Whether asking again, or starting the job again, would end in the same error.

    Clients of databases have errors of their own for a system that is away, which are no mistakes, or `OSError`s; an
    answer that is no JSON may be the error page of a gateway.

    >>> is_mistake(KeyError("name")), is_mistake(ConnectionError("refused"))
    (True, False)
    """
    return isinstance(error, _MISTAKES) and not isinstance(error, _FAULTS)
