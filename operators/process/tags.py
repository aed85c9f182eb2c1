"""Names of side streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakeward.engine.api.row_types import given_schema
from lakeward.engine.core.errors import GraphError


@dataclass(frozen=True, slots=True)
class OutputTag:
    """Names a side stream.

    >>> OutputTag("late").name
    'late'

    Args:
        name: Its name in the operator.
        returns: What its rows are, if a function sends them: a schema, dataclass, TypedDict, NamedTuple or {name:
            type}. Late rows are those of the operator's input, and need none.
    """

    name: str
    returns: Any = field(default=None, hash=False)

    @property
    def schema(self) -> pa.Schema:
        """The schema of its rows.

        >>> OutputTag("alerts", {"shop": str}).schema
        shop: string

        Raises:
            GraphError: It was made without.
            SchemaError: A field's type has no Arrow type.
        """
        if self.returns is None:
            raise GraphError(
                f"the rows of the side stream '{self.name}' are not known",
                hint=f'say what they are: lw.OutputTag("{self.name}", Alert), or {{"shop": str}}',
            )
        return given_schema(self.returns, f"OutputTag '{self.name}'")
