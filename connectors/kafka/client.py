"""Making Kafka clients and telling what their errors mean."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from lakeward.connectors.kafka.config import FETCH_SETTINGS, KafkaOptions
from lakeward.engine.api.secrets import Secret, redact_text, resolve_all
from lakeward.engine.core.errors import ConfigError, LakewardError, SourceError

T = TypeVar("T")

LOG = logging.getLogger("lakeward.kafka")

REQUEST_TIMEOUT_S = 8.0
"""Longest wait for one answer of the broker when a job starts or something went wrong."""

_CONNECTION = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._SSL,
}
GONE = {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
}
_REFUSED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


@dataclass
class ErrorLog:
    """The errors a client reported on its own: of connections, not of requests."""

    last: KafkaError | None = None
    refused: KafkaError | None = None
    gone: KafkaError | None = None
    all_down: bool = False
    seen: list[str] = field(default_factory=list)

    def note(self, error: KafkaError) -> None:
        """Keep an error; handed to the client as its `error_cb`."""
        LOG.info("Kafka client: %s", error.str())
        self.last = error
        if error.code() in _REFUSED:
            self.refused = error
        elif error.code() in GONE:
            self.gone = error
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.all_down = True
        elif not error.str().startswith("GroupCoordinator"):
            self.seen = [*self.seen[-2:], error.str()]

    @property
    def detail(self) -> str:
        """What was reported last."""
        return str(self.refused.str() if self.refused else self.seen[-1] if self.seen else "")


@dataclass(frozen=True)
class Connection:
    """Makes clients for one source and explains their errors.

    Args:
        options: Of the source.
        environment: Where `${env:...}` looks; None: this process's environment.
    """

    options: KafkaOptions
    environment: Mapping[str, str] | None = None

    def admin(self, errors: ErrorLog) -> AdminClient:
        """A client for metadata."""
        return self._made(AdminClient, self._settings(errors), logger=LOG)

    def consumer(
        self, errors: ErrorLog, client_id: str, on_commit: Callable[[Any, Any], None] | None = None
    ) -> Consumer:
        """A client for records and committed offsets. It joins no group: partitions are given to it."""
        settings = dict(FETCH_SETTINGS) | self._settings(errors)
        settings |= {
            "group.id": self.options.group_id or f"lakeward-{client_id}",  # demanded also of those who join none
            "client.id": client_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            # Being polled seldom is how back-pressure looks, not a failure.
            "max.poll.interval.ms": 86_400_000,
        }
        if on_commit is not None:
            settings["on_commit"] = on_commit
        return self._made(Consumer, settings, logger=LOG)

    def _settings(self, errors: ErrorLog) -> dict[str, Any]:
        resolved = resolve_all(self.options.properties, self.environment)
        # The client repeats every connection error in its log, many times a second; they are noted by `errors`.
        settings: dict[str, Any] = {"log_level": 2, "reconnect.backoff.max.ms": 2000, **resolved}
        return settings | {"bootstrap.servers": self.options.bootstrap, "error_cb": errors.note}

    def _made(self, kind: Callable[..., T], settings: dict[str, Any], **more: Any) -> T:
        try:
            return kind(settings, **more)
        except (KafkaException, TypeError, ValueError) as error:
            message = self._hide(str(error.args[0].str() if isinstance(error, KafkaException) else error))
            raise ConfigError(
                f"the Kafka client does not take its settings: {message}",
                hint="properties are librdkafka's; see its CONFIGURATION.md",
            ) from None  # the cause would show the settings

    def explain(self, error: KafkaError, doing: str, errors: ErrorLog) -> LakewardError:
        """What an error means for the user, without secrets.

        Args:
            error: What a request or a record gave.
            doing: What it was for: "listing the partitions of 'orders'".
            errors: What the client reported by itself.
        """
        if errors.refused is not None or error.code() in _REFUSED:
            said = self._hide((errors.refused or error).str())
            return SourceError(
                f"Kafka at {self.options.bootstrap} refused access while {doing}: {said}",
                hint="check sasl.*, ssl.* and security.protocol in properties, and the broker's ACLs",
            )
        if error.code() in _CONNECTION:
            detail = self._hide(errors.detail or error.str())
            return SourceError(
                f"Kafka at {self.options.bootstrap} did not answer while {doing}: {detail}",
                hint="is the broker running, the address right, and security.protocol what its port expects?",
            )
        if error.code() in GONE:
            return SourceError(
                f"a partition is gone from Kafka at {self.options.bootstrap}: {error.str()}",
                hint="was the topic deleted?",
            )
        return SourceError(f"Kafka at {self.options.bootstrap} failed while {doing}: {self._hide(error.str())}")

    def _hide(self, text: str) -> str:
        values = [value.value if isinstance(value, Secret) else "" for value in self.options.properties.values()]
        return redact_text(text, [*values, *_secret_values(self.options.properties, self.environment)])


def _secret_values(properties: Mapping[str, str | Secret], environment: Mapping[str, str] | None) -> list[str]:
    """The values behind references; none if one can't be resolved, for then no client has seen them."""
    references = {key: value for key, value in properties.items() if isinstance(value, str) and "${" in value}
    try:
        return list(resolve_all(references, environment).values())
    except ConfigError:
        return []
