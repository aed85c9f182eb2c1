"""`lakeward cluster start`, and the commands about its jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec

from lakeward.cluster.client import Client, JobInfo
from lakeward.cluster.coordinator import ClusterOptions
from lakeward.cluster.files import ClusterFiles
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError


def start_cluster(
    directory: str,
    port: int,
    slots: int | None,
    allowed: tuple[str, ...],
    savepoints: tuple[str, ...],
    variables: tuple[str, ...],
) -> int:
    """Run a cluster until it is asked to end; returns the exit status."""
    from lakeward.cluster.supervisor import supervise

    _check_installed()
    ClusterFiles.open(Path(directory).expanduser())
    _options(slots, allowed, savepoints, variables)
    arguments = ["cluster", "coordinate", "--dir", directory, "--port", str(port)]
    arguments += [] if slots is None else ["--slots", str(slots)]
    for option, values in (("--allow", allowed), ("--savepoints", savepoints), ("--pass-env", variables)):
        arguments += [part for value in values for part in (option, value)]
    return supervise(arguments, SystemClock())


def coordinate(
    directory: str,
    port: int,
    slots: int | None,
    allowed: tuple[str, ...],
    savepoints: tuple[str, ...],
    variables: tuple[str, ...],
) -> int:
    """Be the coordinator."""
    from lakeward.cluster.serve import serve

    files = ClusterFiles.open(Path(directory).expanduser())
    return serve(files, _options(slots, allowed, savepoints, variables), port, SystemClock(), os.environ)


def submit_job(
    client: Client, as_json: bool, job: str, name: str | None, parallelism: int, venv: str | None, savepoint: str | None
) -> None:
    """Submit a job, and say its id."""
    info = client.submit(job, name=name, parallelism=parallelism, venv=_absolute(venv), savepoint=_absolute(savepoint))
    _show(info, as_json, lambda: f"job {info.id} ({info.name}) is {info.state}")


def list_jobs(client: Client, as_json: bool) -> None:
    """Print a line a job."""
    jobs = client.list()
    if as_json:
        click.echo(msgspec.json.encode(jobs).decode())
        return
    if not jobs:
        click.echo("no job was submitted yet")
    for info in jobs:
        click.echo(f"{info.id}  {info.state:9} {info.parallelism:3} slots  {info.name}  {_progress(info)}".rstrip())


def show_job(client: Client, as_json: bool, job: str) -> None:
    """Print what is known of a job."""
    info = client.show(job)
    _show(info, as_json, lambda: "\n".join(_lines(info)))


def show_logs(client: Client, as_json: bool, job: str, follow: bool) -> None:
    """Print a job's log; lines of Lakeward's for people unless they are asked for as they are."""
    rest = ""
    for text in client.logs(job, follow=follow):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            click.echo(line if as_json else _readable(line))
    if rest:
        click.echo(rest if as_json else _readable(rest))


def cancel_job(client: Client, as_json: bool, job: str) -> None:
    """End a job."""
    info = client.cancel(job)
    _show(info, as_json, lambda: f"job {info.id} is {info.state}")


def stop_job(client: Client, as_json: bool, job: str, savepoint: str | None) -> None:
    """Stop a job, and say where its savepoint is."""
    info = client.stop(job, savepoint=_absolute(savepoint))
    where = f"; savepoint in {info.savepoints[-1]['target']}" if savepoint is not None else ""
    _show(info, as_json, lambda: f"job {info.id} is {info.state}{where}")


def save_job(client: Client, as_json: bool, job: str, directory: str) -> None:
    """Write a savepoint of a job."""
    info = client.savepoint(job, str(_absolute(directory)))
    done = info.savepoints[-1]
    _show(info, as_json, lambda: f"checkpoint {done['checkpoint']} of job {info.id} is saved in {done['target']}")


def rescale_job(client: Client, as_json: bool, job: str, parallelism: int) -> None:
    """Let a job go on with another parallelism."""
    info = client.rescale(job, parallelism)
    _show(info, as_json, lambda: f"job {info.id} is {info.state} with parallelism {info.parallelism}")


def _options(
    slots: int | None, allowed: tuple[str, ...], savepoints: tuple[str, ...], variables: tuple[str, ...]
) -> ClusterOptions:
    for folder in allowed:
        if not Path(folder).is_dir():
            raise ConfigError(f"there is no folder {folder}", hint="--allow names a folder with modules of jobs")
    folders, targets = tuple(Path(one).resolve() for one in allowed), tuple(Path(one).resolve() for one in savepoints)
    return ClusterOptions(slots or os.cpu_count() or 1, folders, targets, variables)


def _check_installed() -> None:
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise ConfigError(f"a cluster needs the package {package}", hint="pip install 'lakeward[cluster]'")


def _absolute(path: str | None) -> str | None:
    """A path as this process means it; a mere name is below the cluster's own folder for savepoints."""
    return path if path is None or os.sep not in path else str(Path(path).expanduser().absolute())


def _show(info: JobInfo, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(msgspec.json.encode(info).decode() if as_json else text())


def _lines(info: JobInfo) -> list[str]:
    submitted = datetime.fromtimestamp(info.created_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [
        f"job {info.id} ({info.name}): {info.state}",
        f"  runs {info.job}, parallelism {info.parallelism}, submitted {submitted}",
        f"  its process has died {info.restarts} times",
        f"  checkpoints in {info.checkpoints}",
    ]
    lines += [f"  {progress}"] if (progress := _progress(info)) else []
    for one in info.savepoints:
        said = f"checkpoint {one['checkpoint']}" if one["state"] == "DONE" else one["error"] or one["state"].lower()
        lines.append(f"  savepoint {one['target']}: {said}")
    if info.error:
        lines += ["  it has failed:", *(f"    {line}" for line in info.error.splitlines())]
    return lines


def _progress(info: JobInfo) -> str:
    status = info.status
    if not status:
        return ""
    parts = [str(status.get("state", "")).lower(), f"{status.get('rows_per_s', 0):,} rows/s"]
    if status.get("checkpoint") is not None:
        parts.append(f"checkpoint {status['checkpoint']}")
    if status.get("restarts"):
        parts.append(f"{status['restarts']} restarts")
    return ", ".join(parts)


def _readable(line: str) -> str:
    try:
        said = json.loads(line)
        time, level, message = said["time"], said["level"], said["message"]
    except (ValueError, KeyError, TypeError):
        return line
    about = " ".join(f"{name}={said[name]}" for name in ("operator", "checkpoint", "attempt") if name in said)
    return f"{time} {level.upper()} {message}{f'  [{about}]' if about else ''}"
