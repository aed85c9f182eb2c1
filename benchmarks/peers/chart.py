"""Draws the bars of `run.py`; run with the interpreter of the peers' environment."""

from __future__ import annotations

import json
import sys

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


def main(data: dict[str, object], path: str) -> None:
    """One group of bars a query, on a logarithmic axis."""
    queries, engines, rates = data["queries"], data["engines"], data["rates"]
    figure, axes = plt.subplots(figsize=(10, 4.2), dpi=130)
    width = 0.8 / len(engines)  # type: ignore[arg-type]
    for place, engine in enumerate(engines):  # type: ignore[arg-type]
        at = [i + place * width for i, q in enumerate(queries) if f"{q} {engine}" in rates]  # type: ignore[arg-type,operator]
        values = [rates[f"{q} {engine}"] / 1e3 for q in queries if f"{q} {engine}" in rates]  # type: ignore[index,operator,union-attr]
        axes.bar(at, values, width, label=NAMES.get(engine, engine), color=COLOURS[engine])
    axes.set_yscale("log")
    axes.set_ylabel("thousand bids per CPU second")
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(queries))], queries)  # type: ignore[arg-type]
    axes.set_title("Nexmark from JSON lines, checkpoints on (more is better)", fontsize=10)
    axes.legend(ncols=len(engines), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
