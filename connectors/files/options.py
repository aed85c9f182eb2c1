"""What users say about files: the format, and how text is cut into columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lakeward.engine.core.expect import expect, refusal

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

    Raises:
        ConfigError: An option has a value that cannot work.
    """

    delimiter: str = ","
    header: bool = True
    null_values: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, str) or len(self.delimiter) != 1:
            raise refusal(self.delimiter, "Csv: delimiter", 'give one character: Csv(delimiter=";")')
        expect(self.header, bool, "Csv: header", "give True or False")
        expect(self.null_values, (tuple, list), "Csv: null_values", 'give texts: Csv(null_values=("", "NA"))')


Format = FormatName | Csv


def format_name(choice: Format, what: str) -> FormatName:
    """The format's name, whatever way it was said.

    Args:
        choice: What the user said.
        what: Whose option it is, for the error.

    Raises:
        ConfigError: There is no such format.
    """
    if isinstance(choice, Csv):
        return "csv"
    if choice not in ("parquet", "jsonl", "csv"):
        raise refusal(choice, what, 'choose "parquet", "jsonl", "csv" or, to read, Csv(...)')
    return choice
