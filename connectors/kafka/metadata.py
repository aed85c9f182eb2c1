"""Metadata columns: a record's key, headers, place and time beside its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import pyarrow as pa

from lakeward.connectors.kafka.config import MetadataName, check_choice
from lakeward.engine.core.errors import ConfigError

METADATA_TYPES: Mapping[MetadataName, pa.DataType] = {
    "key": pa.binary(),
    "headers": pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())])),
    "partition": pa.int32(),
    "offset": pa.int64(),
    "timestamp": pa.timestamp("us", "UTC"),
    "topic": pa.string(),
}
"""What each metadata column holds; headers keep their order and may repeat."""


def source_schema(fields: pa.Schema, metadata: Mapping[MetadataName, str]) -> pa.Schema:
    """The value's fields, then the metadata columns.

    Raises:
        ConfigError: A metadata column has the name of a field.
    """
    clash = [name for name in metadata.values() if name in fields.names]
    if clash:
        raise ConfigError(
            f"the metadata column '{clash[0]}' has the name of a field of the value",
            hint=f'give it another: metadata={{"{clash[0]}": "kafka_{clash[0]}"}}',
        )
    columns = [pa.field(name, METADATA_TYPES[what]) for what, name in metadata.items()]
    return pa.schema([*fields, *columns])


def metadata_columns(metadata: Sequence[str] | Mapping[str, str]) -> dict[MetadataName, str]:
    """What each metadata column holds and its name: its own by default.

    >>> metadata_columns(("offset",)), metadata_columns({"offset": "kafka_offset"})
    ({'offset': 'offset'}, {'offset': 'kafka_offset'})

    Raises:
        ConfigError: There is no such metadata, or two have one name.
    """
    if isinstance(metadata, str):
        raise ConfigError(f"metadata={metadata!r} is a text", hint=f'write metadata=("{metadata}",)')
    columns = dict(metadata) if isinstance(metadata, Mapping) else {name: name for name in metadata}
    for name in columns:
        check_choice("metadata", name, get_args(MetadataName))
    if len(set(columns.values())) != len(columns):
        raise ConfigError(f"two metadata columns have one name: {columns}")
    return {name: columns[name] for name in get_args(MetadataName) if name in columns}
