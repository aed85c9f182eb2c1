"""JSON records: one object a message, decoded by type, straight into Arrow columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec.structs import astuple

from lakeward.connectors.formats.json_columns import ColumnFactory, Reasons, TimestampForm, row_type
from lakeward.connectors.formats.json_encoder import JsonEncoder
from lakeward.connectors.formats.json_lines import Lines
from lakeward.connectors.formats.json_speculation import FEWEST, Guessed, Part, Speculation, merged
from lakeward.engine.api.codec import BadRecord, Decoded, Decoder, Encoder, Format
from lakeward.engine.api.row_types import SchemaLike, given_schema
from lakeward.engine.core.errors import ConfigError, InternalError, SchemaError

_CHUNK = 4096  # messages decoded before their columns are built: they are still in the processor's cache then
_GUESSED_CHUNK = 8192  # where they are cut, not parsed: there a chunk costs more calls
_LINES_CHUNK = 24_576  # where they need not be copied to one buffer before


@dataclass(frozen=True)
class Json(Format):
    """Records in JSON, one object a message, with known fields.

    Fields that the schema does not have are passed over. A missing field is null, or makes the record bad if the field
    is declared non-nullable. Types are strict: the text "12" is not the number 12. A record is bad, with a reason and
    without harm to its neighbours, if it is no valid JSON object, holds more than one, or a value does not fit its type
    (300 for int8). If a name occurs twice in an object, the last one counts.

    Text of points in time may have a blank or a T and any offset; without an offset it is UTC. Bytes are Base64,
    decimals numbers or text, dates and times ISO 8601 text.

    >>> import pyarrow as pa
    >>> bids = Json(pa.schema({"price": pa.int64(), "at": pa.timestamp("us", "UTC")}))
    >>> decoded = bids.decoder().decode([b'{"price": 7, "at": "2026-01-01 12:00:00.5"}', b'{"price": "x"}'])
    >>> decoded.batch.column("price").to_pylist(), decoded.bad[0].reason
    ([7], 'Expected `int | null`, got `str` - at `$.price`')

    Args:
        schema: The fields: an Arrow schema, a dataclass, a TypedDict, or a dict of names and types.
        timestamps: How points in time are written: "text", or "s", "ms", "us", "ns" for numbers since 1970 UTC; a
            dict of column names sets single columns, the others being text.

    Raises:
        SchemaError: A type has no form in JSON.
        ConfigError: `timestamps` has another value or names a column that is none.
    """

    _schema: pa.Schema
    _timestamps: TimestampForm | Mapping[str, TimestampForm]

    def __init__(self, schema: SchemaLike, *, timestamps: TimestampForm | Mapping[str, TimestampForm] = "text") -> None:
        object.__setattr__(self, "_schema", given_schema(schema, "Json: schema"))
        object.__setattr__(self, "_timestamps", timestamps)
        _check_timestamps(self._schema, timestamps)
        self.decoder()  # says now, not when the job runs, if a type won't do

    @property
    def schema(self) -> pa.Schema:
        """All fields."""
        return self._schema

    @property
    def description(self) -> str:
        """The format's name."""
        return "json"

    def decoder(self, columns: Sequence[str] | None = None) -> JsonDecoder:
        """A decoder of all fields or of some: the fewer, the faster. What is not decoded is not checked either.

        Raises:
            SchemaError: There is no such field.
        """
        return JsonDecoder(_pruned(self._schema, columns), self._factory)

    def encoder(self) -> Encoder:
        """An encoder, for any batch; it writes points in time as this format says."""
        single = {} if isinstance(self._timestamps, str) else dict(self._timestamps)
        return JsonEncoder(self._timestamps if isinstance(self._timestamps, str) else "text", single)

    @cached_property
    def _factory(self) -> ColumnFactory:
        if isinstance(self._timestamps, str):
            return ColumnFactory(self._timestamps)
        return ColumnFactory("text", self._timestamps)


class JsonDecoder(Decoder):
    """Decodes messages of one shape at once, others with one typed parser (msgspec) a message, then column by column.

    Args:
        schema: The fields to decode.
        factory: Finds the builders of columns.
        speculate: Whether to try the first way; rows and bad records are the same without, only later.
    """

    def __init__(self, schema: pa.Schema, factory: ColumnFactory, *, speculate: bool = True) -> None:
        self._schema = schema
        self._columns = tuple(factory.column(one.name, one.type) for one in schema)
        self._parse = msgspec.json.Decoder(row_type(list(schema), self._columns)).decode
        self._nullable = all(one.nullable for one in schema)
        self._speculation = Speculation(schema, self._columns, self._parse) if speculate and len(schema) else None

    @property
    def schema(self) -> pa.Schema:
        """The decoded fields."""
        return self._schema

    def decode(self, messages: Sequence[bytes | None]) -> Decoded:
        """Decode messages; see `Decoder.decode`."""
        if self._speculation is None or len(messages) < FEWEST:
            parts = self._decode_parsing(messages, 0)
        else:
            starts = range(0, len(messages), _GUESSED_CHUNK)
            chunks = (self._decode_guessing(messages[i : i + _GUESSED_CHUNK], i, self._speculation) for i in starts)
            parts = list(chain.from_iterable(chunks))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def decode_lines(self, lines: Lines) -> Decoded:
        """Decode lines where they lie, a message each; blank lines stand for nothing: neither rows nor bad.

        Returns:
            As `decode` would; the places are those of the lines.
        """
        if not len(lines):
            return self._decode_chunk([], 0)
        pieces = -(-len(lines) // _LINES_CHUNK)
        if pieces == 1:
            return self._decode_part(lines, 0)
        size = -(-len(lines) // pieces)
        starts = range(0, len(lines), size)
        return _joined([self._decode_part(lines.part(i, min(i + size, len(lines))), i) for i in starts])

    def _decode_part(self, lines: Lines, first: int) -> Decoded:
        if self._speculation is not None and len(lines) >= FEWEST and not self._speculation.rests():
            guessed = self._speculation.decode(lines)
        else:
            guessed = None
        if guessed is None:
            guessed = Guessed([], np.arange(len(lines)))
        texts = lines.texts(guessed.left)
        filled = [i for i, text in enumerate(texts) if text and not text.isspace()]
        if len(filled) < len(texts):
            guessed, texts = Guessed(guessed.parts, guessed.left[filled]), [texts[i] for i in filled]
        return self._completed(guessed, texts, len(lines), first)

    def _decode_parsing(self, messages: Sequence[bytes | None], first: int) -> list[Decoded]:
        starts = range(0, len(messages), _CHUNK) if messages else [0]
        return [self._decode_chunk(messages[i : i + _CHUNK], first + i) for i in starts]

    def _decode_guessing(self, messages: Sequence[bytes | None], first: int, speculation: Speculation) -> list[Decoded]:
        lines = Lines.of(messages) if len(messages) >= FEWEST and not speculation.rests() else None
        guessed = speculation.decode(lines) if lines is not None else None
        if guessed is None:
            return self._decode_parsing(messages, first)
        return [self._completed(guessed, [messages[i] for i in guessed.left.tolist()], len(messages), first)]

    def _completed(self, guessed: Guessed, texts: Sequence[bytes | None], count: int, first: int) -> Decoded:
        """With the texts that could not be decoded at once, if any.

        Args:
            guessed: What was decoded, and the places of the others.
            texts: The others.
            count: How many there are in all.
            first: The place of the first one.
        """
        parts, bad = list(guessed.parts), []
        for start in range(0, len(texts), _CHUNK):
            parsed = self._decode_chunk(texts[start : start + _CHUNK], start)
            kept = range(parsed.batch.num_rows) if parsed.rows is None else parsed.rows
            parts.append(Part(list(parsed.batch.columns), guessed.left[kept]))
            bad += [BadRecord(first + int(guessed.left[one.index]), one.reason) for one in parsed.bad]
        arrays, rows = merged(parts, self._schema)
        batch = self._batch(arrays, len(rows))
        return Decoded(batch, None if len(rows) == count and not first else rows + first, bad)

    def _decode_chunk(self, messages: Sequence[bytes | None], first: int) -> Decoded:
        cells, bad = self._parse_all(messages)
        width = max(1, len(self._columns))
        count = len(messages) - len(bad)
        if len(cells) != count * width:
            raise InternalError(f"{len(messages)} messages gave {len(cells)} cells and {len(bad)} bad records")
        arrays: list[pa.Array] = []
        misfits: Reasons = {}
        for i, column in enumerate(self._columns):
            array, reasons = column.build(cells[i::width])
            arrays.append(array)
            if reasons:
                misfits |= {place: f"{self._schema.field(i).name}: {why}" for place, why in reasons.items()}
        batch = self._batch(arrays, count)
        if not bad and not misfits:
            return Decoded(batch, np.arange(first, first + count) if first else None)
        return _without(batch, bad, misfits, first)

    def _batch(self, arrays: list[pa.Array], count: int) -> pa.RecordBatch:
        if arrays:
            return pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        rows = pa.StructArray.from_arrays([], fields=[], mask=pa.array(np.zeros(count, np.bool_)))
        return pa.RecordBatch.from_struct_array(rows)

    def _parse_all(self, messages: Sequence[bytes | None]) -> tuple[list[Any], Reasons]:
        """The values of all good messages, row after row, and why the others are bad, by place.

        `extend` runs without Python code a row. When a message is bad it stops there with all rows before kept, and the
        iterator over the messages stands behind the bad one: so it goes on with the next.
        """
        width = max(1, len(self._columns))
        cells: list[Any] = []
        bad: Reasons = {}
        rest = iter(messages)
        while True:
            try:
                rows = map(self._parse, rest)  # type: ignore[arg-type]
                cells.extend(chain.from_iterable(map(astuple, rows)) if self._columns else rows)
                return cells, bad
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
                place = len(cells) // width + len(bad)
                if messages[place] is not None:
                    bad[place] = str(error)
                elif self._nullable:
                    cells.extend([None] * width)
                else:
                    bad[place] = "the message is null, and the schema has fields that can't be"


def _without(batch: pa.RecordBatch, bad: Reasons, misfits: Reasons, first: int) -> Decoded:
    """Leave out the rows of `misfits` (places among the rows); `bad` are places among the messages."""
    kept = np.ones(batch.num_rows + len(bad), np.bool_)
    kept[list(bad)] = False
    rows: npt.NDArray[np.int64] = np.flatnonzero(kept)
    reasons = bad | {int(rows[row]): why for row, why in misfits.items()}
    if misfits:
        good = np.ones(batch.num_rows, np.bool_)
        good[list(misfits)] = False
        batch, rows = batch.filter(pa.array(good)), rows[good]
    return Decoded(batch, rows + first, [BadRecord(first + i, reasons[i]) for i in sorted(reasons)])


def _joined(parts: Sequence[Decoded]) -> Decoded:
    bad = [one for part in parts for one in part.bad]
    batch = pa.concat_batches([part.batch for part in parts])
    rows = np.concatenate([np.arange(part.batch.num_rows) if part.rows is None else part.rows for part in parts])
    whole = not bad and (not len(rows) or int(rows[-1]) == len(rows) - 1)  # they increase: none is left out
    return Decoded(batch, None if whole else rows, bad)


def _pruned(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        raise SchemaError(f"no such field: {unknown}; there are {schema.names}")
    return pa.schema([schema.field(name) for name in columns])


def _check_timestamps(schema: pa.Schema, timestamps: TimestampForm | Mapping[str, TimestampForm]) -> None:
    forms = {"": timestamps} if isinstance(timestamps, str) else timestamps
    for name, form in forms.items():
        if form not in get_args(TimestampForm):
            raise ConfigError(f"timestamps={form!r} is none of {', '.join(get_args(TimestampForm))}")
        if name and name not in schema.names:
            raise ConfigError(f"timestamps names the column '{name}', which the schema does not have")
