"""Draws the bars of `run.py`; run with the interpreter of the peers' environment."""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

NAMES = {"flink": "flink sql", "threads": "pyflink (threads)"}
COLOURS = {
    "lakeward": "#0b7285",
    "flink": "#e8590c",
    "pyflink": "#f59f00",
    "threads": "#ffd43b",
    "bytewax": "#868e96",
    "quix": "#adb5bd",
}
FEW = ("lakeward", "flink")
"""Who answers all of Nexmark."""


def main(data: dict[str, Any], path: str) -> None:
    """The queries that many engines answer above, those that only Lakeward and Flink SQL answer below."""
    rates = {tuple(name.split()): rate / 1e3 for name, rate in data["rates"].items()}
    many = [query for query in data["queries"] if any((query, name) in rates for name in COLOURS if name not in FEW)]
    rows = [group for group in (many, [query for query in data["queries"] if query not in many]) if group]
    figure, panels = plt.subplots(len(rows), figsize=(10, 3.6 * len(rows) + 0.6), dpi=130, squeeze=False)
    for axes, queries in zip(panels[:, 0], rows, strict=True):
        draw(
            axes, queries, [name for name in data["engines"] if any((query, name) in rates for query in queries)], rates
        )
    panels[0, 0].set_title("Nexmark from JSON lines, checkpoints on (more is better)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)


def draw(axes: Any, queries: list[str], engines: list[str], rates: dict[tuple[str, ...], float]) -> None:
    """One group of bars a query, on a logarithmic axis."""
    width = 0.8 / len(engines)
    for place, engine in enumerate(engines):
        found = {at + place * width: rates.get((query, engine)) for at, query in enumerate(queries)}
        bars = {at: rate for at, rate in found.items() if rate is not None}
        axes.bar(bars.keys(), bars.values(), width, label=NAMES.get(engine, engine), color=COLOURS[engine])
    axes.set_yscale("log")
    axes.set_ylabel("thousand rows per CPU second")
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(queries))], queries)
    axes.legend(ncols=len(engines), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
