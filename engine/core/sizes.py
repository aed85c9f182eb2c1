"""Sizes as users write them: "128MB", "1 GiB", or a number of bytes."""

from __future__ import annotations

import re

from lakeward.engine.core.expect import refusal

Size = int | str

_UNITS_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


def parse_size_bytes(size: Size, what: str = "size") -> int:
    """Bytes of a size.

    >>> parse_size_bytes("128MB"), parse_size_bytes("1 GiB"), parse_size_bytes(1000)
    (128000000, 1073741824, 1000)

    Args:
        size: Text with a unit (B, kB, MB, GB, KiB, MiB, GiB), or bytes.
        what: The option's name, for the error.

    Returns:
        Whole bytes, one or more.

    Raises:
        ConfigError: It is no size, or less than a byte.
    """
    match = None
    if isinstance(size, int | str) and not isinstance(size, bool):
        match = _PATTERN.fullmatch(str(size).lower())
    size_bytes = int(float(match[1]) * _UNITS_BYTES[match[2]]) if match and match[2] in _UNITS_BYTES else 0
    if size_bytes < 1:
        raise refusal(size, what, 'write for example "128MB" or "1GiB", or a whole number of bytes')
    return size_bytes
