"""Connectors by name, for the command line and configuration files; one line a connector, imported when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from lakeward.engine.api.sink import Sink
from lakeward.engine.api.source import Source
from lakeward.engine.core.errors import ConfigError

_HOME = "lakeward.connectors"

SOURCES: Mapping[str, str] = {
    "collection": "collection:CollectionSource",
    "files": "files:FilesSource",
    "kafka": "kafka:KafkaSource",
    "nexmark": "nexmark:NexmarkSource",
}
"""Name to module and class of every source."""

SINKS: Mapping[str, str] = {
    "blackhole": "blackhole:BlackholeSink",
    "files": "files:FilesSink",
    "iceberg": "iceberg:IcebergSink",
    "memory": "memory:MemorySink",
    "print": "console:PrintSink",
}
"""Name to module and class of every sink."""


def source_factory(name: str) -> Callable[..., Source]:
    """The source class of this name.

    >>> source_factory("nexmark")(1_000, kinds="person").description
    'nexmark person'

    Raises:
        ConfigError: There is no such source.
    """
    return cast(Callable[..., Source], _load("source", name, SOURCES))


def sink_factory(name: str) -> Callable[..., Sink]:
    """The sink class of this name.

    >>> sink_factory("blackhole")().description
    'blackhole'

    Raises:
        ConfigError: There is no such sink.
    """
    return cast(Callable[..., Sink], _load("sink", name, SINKS))


def _load(what: str, name: str, known: Mapping[str, str]) -> Callable[..., object]:
    if name not in known:
        raise ConfigError(f"there is no {what} named {name!r}", hint=f"known are {', '.join(sorted(known))}")
    module, _, attribute = known[name].partition(":")
    factory: Callable[..., object] = getattr(import_module(f"{_HOME}.{module}"), attribute)
    return factory
