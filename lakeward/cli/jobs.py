"""`lakeward run`, `worker` and `explain`: load a job file or function and start it."""

from __future__ import annotations

import importlib
import logging
import runpy
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import click

from lakeward import __version__
from lakeward.cli.control_channel import ControlChannel
from lakeward.cli.live import LineKeepingHandler, LiveLine
from lakeward.cli.logs import LogFormat, show_log
from lakeward.dsl.launch import HostsLaunch, LaunchOptions, launched_with
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError, LakewardError, UserCodeError, WorkerLostError
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.core.user_frames import user_trace
from lakeward.engine.processes.hosts import read_hosts
from lakeward.engine.processes.orders import WorkerOrder
from lakeward.engine.processes.worker_process import say_why_not


def run_job(job: str, options: LaunchOptions, log_format: LogFormat = "text", control_fd: int | None = None) -> None:
    """Run the jobs that a file or function executes, and show how they are getting on.

    Args:
        job: The file or function.
        options: Those of the command line.
        log_format: Of the log.
        control_fd: The descriptor of a socket to whoever has started this process; None: there is none.
    """
    if control_fd is not None:
        channel = ControlChannel(control_fd, SystemClock())
        with (
            channel.ends_told(),
            launched_with(replace(options, observe=channel.observe, make_control=channel.make_control)),
        ):
            load_and_call(job)
        return
    terminal = sys.stderr.isatty() and log_format == "text"
    line = LiveLine(SystemClock(), sys.stderr, terminal=terminal, log=logging.getLogger("lakeward").info)
    if terminal:
        show_log(LineKeepingHandler(sys.stderr, line), log_format)
    try:
        with launched_with(replace(options, observe=line)):
            load_and_call(job)
    finally:
        line.close()


def launch_on(hosts_file: str, job: str) -> HostsLaunch:
    """What a file says of hosts, for a job."""
    return HostsLaunch(read_hosts(hosts_file), job, __version__)


def work_on(job: str, told: BinaryIO) -> None:
    """Be a worker of a job that runs on several hosts. Does not return.

    Args:
        job: The file or function that makes it here.
        told: Has the worker's order, a line.

    Raises:
        LakewardError: It cannot; whoever started the job knows why, too.
    """
    if told.isatty():
        raise ConfigError("a worker is not started by hand", hint="use lakeward run FILE.py --hosts FILE.toml")
    order = WorkerOrder.from_line(told.readline())
    try:
        if order.job.release != __version__:
            raise ConfigError(
                f"Lakeward is {__version__} here and {order.job.release} where the job was started",
                hint="install the same version on all hosts",
            )
        with launched_with(LaunchOptions(worker=order)):
            load_and_call(job)
        raise ConfigError(f"{job} executes no job '{order.job.name}'", hint="give all hosts the same job file")
    except WorkerLostError:  # from here the coordinator cannot be reached
        raise
    except LakewardError as error:
        error.redact(order.job.config.redaction)
        say_why_not(order.spec, error.add(f" (worker {order.spec.number} on {socket.gethostname()})"))
        raise


def explain_job(job: str, options: LaunchOptions) -> None:
    """Print the plans of the jobs that a file or function would execute.

    Raises:
        ConfigError: It executes none.
    """
    with launched_with(options):
        load_and_call(job)
    if not options.plans:
        raise ConfigError(f"{job} executes no job", hint='it should call env.execute("name")')
    for name, plan in options.plans.items():
        click.echo(f"job {name}\n{plan}")


def load_and_call(job: str) -> None:
    """Run a file as a script, or call a function of a module.

    Raises:
        ConfigError: There is no such file, module or function.
        UserCodeError: The file or function raised; names the user's own line.
    """
    module, _, function = job.partition(":")
    if job.endswith(".py") and not Path(job).is_file():
        raise ConfigError(f"there is no file {job}", hint=f"looked in {Path.cwd()}")
    if not job.endswith(".py") and not function:
        raise ConfigError(f"'{job}' names no job", hint="give a file (job.py) or a function (package.module:function)")
    try:
        if job.endswith(".py"):
            sys.path.insert(0, str(Path(job).resolve().parent))
            runpy.run_path(job, run_name="__main__")
        else:
            sys.path.insert(0, str(Path.cwd()))
            _find(module, function)()
    except (LakewardError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _users_error(error) from error


def _find(module: str, function: str) -> Callable[[], object]:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"there is no module '{error.name}'", hint=f"looked in {Path.cwd()} and on sys.path"
        ) from error
    if not callable(getattr(found, function, None)):
        names = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(f"module '{module}' has no function '{function}'", hint=did_you_mean(function, names))
    called: Callable[[], object] = getattr(found, function)
    return called


def _users_error(error: Exception) -> UserCodeError:
    """What the file or function raised, with the user's lines; of a syntax error, its own line."""
    location = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) and error.filename else ""
    trace = () if location else user_trace(error)
    failure = UserCodeError(f"{type(error).__name__}: {error}", location=location, trace=trace)
    failure.raised = error
    return failure
