"""The format contract: bytes to Arrow batches and back, with bad records told apart from good ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A message that could not be decoded.

    Args:
        index: Its place among the messages given.
        reason: What is wrong with it, for a human.
    """

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came of some messages.

    Args:
        batch: A row for each good message, in their order.
        rows: For each row the place of its message; None when every message was good.
        bad: The others, in their order.
    """

    batch: pa.RecordBatch
    rows: npt.NDArray[np.int64] | None = None
    bad: Sequence[BadRecord] = ()


class Decoder(ABC):
    """Turns messages into rows. One per reader; not shared between threads."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The schema of every batch."""

    @abstractmethod
    def decode(self, messages: Sequence[bytes | None]) -> Decoded:
        """Decode messages; never raises for what is in them.

        Args:
            messages: One record each. None (a tombstone) becomes a row of nulls, or is bad if a field can't be null.

        Returns:
            One row for each good message, and the bad ones with reasons: rows and bad records add up to the messages.
        """


class Encoder(ABC):
    """Turns rows into messages."""

    @abstractmethod
    def encode(self, batch: pa.RecordBatch) -> list[bytes]:
        """One message for each row, in order.

        Raises:
            SchemaError: A column's type has no form in this format.
        """


class Format(ABC):
    """How one record is written as bytes: a description, immutable, that makes decoders and encoders."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """All fields of a record."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Its name for `explain()`: "json"."""

    @abstractmethod
    def decoder(self, columns: Sequence[str] | None = None) -> Decoder:
        """Make a decoder.

        Args:
            columns: Only these fields, in this order; None: all. The others are not looked at, nor checked.

        Raises:
            SchemaError: There is no such field.
        """

    @abstractmethod
    def encoder(self) -> Encoder:
        """Make an encoder."""
