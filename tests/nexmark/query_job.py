"""What tests/nexmark/test_killed_queries.py kills: a query over files, as `benchmarks/nexmark.py` runs it.

`query_job.py REQUEST` runs a request. Without one it reads requests from its standard input, a line each, runs each in
a process of its own, forked from this one, which has imported everything and run nothing, and answers with how that
process has ended: deaths are as real, and what is imported is paid for once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

from nexmark_answers import nexmark

from lakeward.testing.kill_points import KillPoint, arm, die, pace

BEFORE_RENAME, AFTER_RENAME = "before-rename", "after-rename"
"""Points of the answer's file, after those of checkpoints."""
PACKAGES = ("dsl", "engine", "operators", "connectors.files", "connectors.formats", "examples.nexmark")
"""What queries need."""


def arm_rename(point: str, target: str) -> None:
    """Die just before or after the answer gets its name."""
    rename = os.replace

    def replace(source: Any, destination: Any) -> None:
        here = os.fspath(destination) == target
        if here and point == BEFORE_RENAME:
            die()
        rename(source, destination)
        if here:
            die()

    os.replace = replace


def main(text: str) -> None:
    """Run one request, and perhaps die of it."""
    request = json.loads(text)
    options = nexmark.Run(**request["run"])
    logging.basicConfig(filename=request["log"], level=logging.INFO)
    pace(1)
    if request["kill_at"] in (BEFORE_RENAME, AFTER_RENAME):
        arm_rename(request["kill_at"], f"{options.output}/{options.query}.parquet")
    elif request["kill_at"]:
        arm(KillPoint(request["kill_at"]), request["nth"])
    nexmark.run(options)


def serve() -> None:
    """Run requests until there are no more."""
    for name in PACKAGES:
        package = import_module(f"lakeward.{name}")
        for module in walk_packages(getattr(package, "__path__", ()), f"lakeward.{name}."):
            import_module(module.name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            main(line)
            logging.shutdown()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else serve()
