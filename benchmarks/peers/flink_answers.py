"""Writes what queries answer in Flink SQL: a file of JSON lines each, with the rows that are left at the end.

Run by `check.py` with the interpreter of an environment that has apache-flink:

    python flink_answers.py DIRECTORY OUTPUT QUERY=FILE [QUERY=FILE ...]
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from flink_sql import answering
from pyflink.common import RowKind
from pyflink.table import TableEnvironment


def answer(env: TableEnvironment) -> Counter[str]:
    """The rows that the query's changes leave."""
    left: Counter[str] = Counter()
    with env.execute_sql("select * from answer").collect() as rows:
        for row in rows:
            added = row.get_row_kind() in (RowKind.INSERT, RowKind.UPDATE_AFTER)
            left[json.dumps(list(row), default=str)] += 1 if added else -1
    return left


def main(directory: str, output: str, *queries: str) -> None:
    """Run the queries one after another."""
    for each in queries:
        query, path = each.split("=")
        lines = answer(answering(query, path, f"{directory}/{query}")).elements()
        Path(output, f"{query}.jsonl").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
