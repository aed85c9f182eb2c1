"""Partition transforms as users write them; names and meanings are Iceberg's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lakeward.engine.core.errors import ConfigError

_PARAMETER_MAX = 2**31 - 1
_SUFFIXES = {"identity": "", "bucket": "_bucket", "truncate": "_trunc"}


@dataclass(frozen=True, slots=True)
class PartitionTransform:
    """One column of a table's partitioning: a source column and what is done with it.

    Make one with `day`, `hour`, `month`, `year`, `bucket` or `truncate`; a plain column name stands for the identity.

    Args:
        column: The source column.
        transform: Iceberg's text form: "identity", "day", "bucket[16]".
    """

    column: str
    transform: str = "identity"

    @property
    def field_name(self) -> str:
        """The partition field's name, as Iceberg's Java library would choose it.

        >>> day("ts").field_name, bucket("user", 16).field_name, truncate("city", 2).field_name
        ('ts_day', 'user_bucket', 'city_trunc')
        """
        kind = re.split(r"\[", self.transform)[0]
        return self.column + _SUFFIXES.get(kind, f"_{kind}")

    def __str__(self) -> str:
        return self.column if self.transform == "identity" else f"{self.transform}({self.column})"


def year(column: str) -> PartitionTransform:
    """Partition by the year of a date or timestamp column.

    >>> str(year("ordered_at"))
    'year(ordered_at)'
    """
    return PartitionTransform(column, "year")


def month(column: str) -> PartitionTransform:
    """Partition by the month of a date or timestamp column.

    >>> str(month("ordered_at"))
    'month(ordered_at)'
    """
    return PartitionTransform(column, "month")


def day(column: str) -> PartitionTransform:
    """Partition by the day of a date or timestamp column.

    >>> str(day("ordered_at"))
    'day(ordered_at)'
    """
    return PartitionTransform(column, "day")


def hour(column: str) -> PartitionTransform:
    """Partition by the hour of a timestamp column.

    >>> str(hour("ordered_at"))
    'hour(ordered_at)'
    """
    return PartitionTransform(column, "hour")


def bucket(column: str, count: int) -> PartitionTransform:
    """Partition by a hash of the column (Murmur3, as the Iceberg specification has it).

    >>> str(bucket("user", 16))
    'bucket[16](user)'

    Args:
        column: The source column.
        count: Number of buckets, at least 1.

    Returns:
        The transform.

    Raises:
        ConfigError: The count is not positive.
    """
    return PartitionTransform(column, f"bucket[{_positive(count, f'bucket({column!r}, ...)')}]")


def truncate(column: str, width: int) -> PartitionTransform:
    """Partition by a prefix of a string (`width` characters) or by a number rounded down to a multiple of `width`.

    >>> str(truncate("city", 3))
    'truncate[3](city)'

    Args:
        column: The source column.
        width: Characters, or the multiple; at least 1.

    Returns:
        The transform.

    Raises:
        ConfigError: The width is not positive.
    """
    return PartitionTransform(column, f"truncate[{_positive(width, f'truncate({column!r}, ...)')}]")


def as_transforms(partition_by: Sequence[str | PartitionTransform]) -> tuple[PartitionTransform, ...]:
    """Plain column names become the identity.

    >>> [str(t) for t in as_transforms(["shop", day("ts")])]
    ['shop', 'day(ts)']
    """
    if isinstance(partition_by, str):
        raise ConfigError(
            f"partition_by is a string: {partition_by!r}", hint=f"write a list: partition_by=[{partition_by!r}]"
        )
    transforms = tuple(PartitionTransform(item) if isinstance(item, str) else item for item in partition_by)
    for number, one in enumerate(transforms):
        if not isinstance(one, PartitionTransform):
            raise ConfigError(f"partition_by holds {one!r}", hint='write column names, or for example day("ts")')
        if one in transforms[:number]:
            raise ConfigError(f"partition_by holds {one} twice", hint="leave one out")
    return transforms


def _positive(number: int, what: str) -> int:
    if not 0 < number <= _PARAMETER_MAX:
        raise ConfigError(f"{what}: {number} is not between 1 and {_PARAMETER_MAX}")
    return number
