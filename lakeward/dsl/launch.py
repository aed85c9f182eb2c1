"""How `env.execute` behaves when a job file is started by the command line: run with other options, or only explain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from lakeward.engine.processes.hosts import Hosts
from lakeward.engine.processes.orders import WorkerOrder
from lakeward.engine.runtime.control import JobControl
from lakeward.engine.runtime.status import Observer, nobody


@dataclass(frozen=True, slots=True)
class HostsLaunch:
    """Where the workers of a job are, and how those make the job.

    Args:
        hosts: Commands that start them, and addresses.
        job: The file, or module and function.
        release: The version of Lakeward.
    """

    hosts: Hosts
    job: str
    release: str


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What the command line says about the jobs of a file.

    Args:
        explain_only: `execute` adds the plan to `plans` and runs nothing.
        parallelism: Wins over the job's own.
        checkpoint_dir: Wins over the job's own.
        checkpoint_interval: Wins over the job's own.
        savepoint: Wins over what `execute` says.
        dropped_state: Added to what `execute` says.
        observe: Is told how a running job is getting on.
        make_control: Makes what takes requests for a job while it runs.
        hosts: Where its workers are; None: on this host.
        worker: What this process is told as a worker of one of the jobs: `execute` works for that one then, and ends
            the process; it does nothing for others.
        plans: The plans of the jobs that were only explained, by name.
    """

    explain_only: bool = False
    parallelism: int | None = None
    checkpoint_dir: str | None = None
    checkpoint_interval: str | None = None
    savepoint: str | None = None
    dropped_state: tuple[str, ...] = ()
    observe: Observer = nobody
    make_control: Callable[[], JobControl] = JobControl
    hosts: HostsLaunch | None = None
    worker: WorkerOrder | None = None
    plans: dict[str, str] = field(default_factory=dict)


_current: ContextVar[LaunchOptions | None] = ContextVar("lakeward_launch", default=None)


def current_launch() -> LaunchOptions:
    """The options in force; by default they change nothing."""
    return _current.get() or LaunchOptions()


@contextmanager
def launched_with(options: LaunchOptions) -> Iterator[LaunchOptions]:
    """Put options in force."""
    token = _current.set(options)
    try:
        yield options
    finally:
        _current.reset(token)
