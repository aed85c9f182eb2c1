"""What a worker that a command starts is told on its standard input: one line of JSON.

Not by arguments or the environment: every user of a host can read the arguments of all its processes, and often what is
logged of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson

from lakeward.engine.config import EngineConfig, RestartConfig
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.processes.launcher import WorkerSpec


@dataclass(frozen=True, slots=True)
class JobReference:
    """A job that workers make themselves.

    Args:
        job: The file, or module and function, that makes it.
        name: Which of the jobs that those execute.
        config: How it is run.
        checkpoint_dir: Its checkpoint directory.
        release: The version of Lakeward.
    """

    job: str
    name: str
    config: EngineConfig
    checkpoint_dir: str
    release: str


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What a worker is told.

    >>> spec = WorkerSpec(1, 2, 7, "tcp:127.0.0.1:7000", "ab12", "tcp:127.0.0.1:0", "tcp:127.0.0.1:0")
    >>> order = WorkerOrder(spec, JobReference("job.py", "revenue", EngineConfig(), "s3://lake/revenue", "0.1.0"))
    >>> WorkerOrder.from_line(order.to_line()) == order
    True

    Args:
        spec: Which worker it is, and whom to call.
        job: What it works for.
    """

    spec: WorkerSpec
    job: JobReference

    def to_line(self) -> bytes:
        """The order as a line."""
        return orjson.dumps({"spec": asdict(self.spec), "job": asdict(self.job)}) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> WorkerOrder:
        """The order in a line.

        Raises:
            ConfigError: It is none.
        """
        try:
            said = orjson.loads(line)
            job = said["job"]
            return cls(WorkerSpec(**said["spec"]), JobReference(**{**job, "config": _config(job["config"])}))
        except (ValueError, TypeError, KeyError) as error:  # without what was said: it has the secret
            raise ConfigError(
                "what came on the standard input is no worker's order",
                hint="`lakeward run --hosts` starts workers; the same version of Lakeward has to be on all hosts",
            ) from error


def _config(said: dict[str, Any]) -> EngineConfig:
    plain = {**said, "restart": RestartConfig(**said["restart"]), "redact_columns": tuple(said["redact_columns"])}
    return EngineConfig(**plain)
