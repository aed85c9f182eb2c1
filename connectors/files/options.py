"""What users say about files: the format, and how text is cut into columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lakeward.engine.core.errors import ConfigError

FormatName = Literal["parquet", "jsonl", "csv"]
OnError = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class Csv:
    """How CSV files are written, where it is not the usual way (RFC 4180, with a header).

    >>> Csv(delimiter=";").delimiter
    ';'

    Args:
        delimiter: One character between columns.
        header: Whether the first line names the columns; if not, they are the schema's, or f0, f1, ...
        null_values: Texts that stand for null outside quotes; "" makes an empty field null.
    """

    delimiter: str = ","
    header: bool = True
    null_values: tuple[str, ...] = ("",)


Format = FormatName | Csv


def format_name(choice: Format) -> FormatName:
    """The format's name, whatever way it was said.

    Raises:
        ConfigError: There is no such format.
    """
    if isinstance(choice, Csv):
        return "csv"
    if choice not in ("parquet", "jsonl", "csv"):
        raise ConfigError(f"format={choice!r} is not known for files", hint='"parquet", "jsonl", "csv" or Csv(...)')
    return choice
