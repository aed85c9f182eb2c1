"""`lakeward run` and `lakeward explain`: load a job file or function and start it."""

from __future__ import annotations

import importlib
import logging
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from lakeward.cli.live import LineKeepingHandler, LiveLine
from lakeward.cli.logs import LogFormat, show_log
from lakeward.dsl.launch import LaunchOptions, launched_with
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError, LakewardError, UserCodeError
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.core.user_frames import user_trace


def run_job(job: str, options: LaunchOptions, log_format: LogFormat = "text") -> None:
    """Run the jobs that a file or function executes, and show how they are getting on."""
    terminal = sys.stderr.isatty() and log_format == "text"
    line = LiveLine(SystemClock(), sys.stderr, terminal=terminal, log=logging.getLogger("lakeward").info)
    if terminal:
        show_log(LineKeepingHandler(sys.stderr, line), log_format)
    try:
        with launched_with(replace(options, observe=line)):
            load_and_call(job)
    finally:
        line.close()


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
