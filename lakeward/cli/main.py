"""`lakeward`: the command line. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import Any

import click

from lakeward import __version__


class _Commands(click.Group):
    """Turns Lakeward's errors into a few readable lines and exit status 1 (0 lines of traceback)."""

    def invoke(self, ctx: click.Context) -> Any:
        from lakeward.engine.core.errors import LakewardError

        try:
            return super().invoke(ctx)
        except LakewardError as error:
            if ctx.params.get("traceback"):
                raise
            if ctx.params.get("log_format") == "json":
                logging.getLogger("lakeward").error("%s", error)
            else:
                from lakeward.cli.errors import show_error

                show_error(error)
            sys.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lakeward")
@click.option("--traceback", is_flag=True, help="Show the whole Python traceback of an error.")
@click.option("-v", "--verbose", is_flag=True, help="Say more of what goes on.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Log lines for whom."
)
@click.pass_context
def main(ctx: click.Context, traceback: bool, verbose: bool, log_format: Any) -> None:
    """Stream processing in Python: Kafka to your lakehouse, exactly once."""
    from lakeward.cli.logs import configure_logging

    configure_logging(verbose=verbose, log_format=log_format)
    ctx.obj = log_format


_JOB = click.argument("job", metavar="FILE.py|MODULE:FUNCTION")
_OPTIONS = [
    click.option("--parallelism", type=click.IntRange(min=1), help="Subtasks of each operator."),
    click.option("--checkpoint-dir", help="Directory or URI of the job's checkpoints."),
    click.option("--checkpoint-interval", help='Time between checkpoints, for example "10s".'),
]


def _with_options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@main.command()
@_JOB
@_with_options
@click.option("--from", "savepoint", metavar="DIR", help="Savepoint, or another job's checkpoints, to begin from.")
@click.option("--drop-state", "dropped_state", metavar="UID", multiple=True, help="Operator whose state may be lost.")
@click.option("--hosts", "hosts_file", metavar="FILE.toml", help="Hosts of its workers, and commands that start them.")
@click.option("--control-fd", type=int, hidden=True, help="Socket to whoever starts jobs; see cli/control_channel.py.")
@click.pass_obj
def run(
    log_format: Any,
    /,
    job: str,
    dropped_state: tuple[str, ...],
    hosts_file: str | None,
    control_fd: int | None,
    **options: Any,
) -> None:
    """Run the job that a file or function defines.

    Ctrl-C stops it with a last checkpoint; run it again to go on from there.
    """
    from lakeward.cli.jobs import launch_on, run_job
    from lakeward.dsl.launch import LaunchOptions

    hosts = None if hosts_file is None else launch_on(hosts_file, job)
    run_job(job, LaunchOptions(dropped_state=dropped_state, hosts=hosts, **options), log_format, control_fd)


@main.command()
@click.option("--job", required=True, metavar="FILE.py|MODULE:FUNCTION", help="Makes the job, as on the other hosts.")
def worker(job: str) -> None:
    """Be a worker of a job on several hosts; `lakeward run --hosts` starts it.

    It is told on its standard input whom to call.
    """
    from lakeward.cli.jobs import work_on

    work_on(job, sys.stdin.buffer)


@main.command()
@_JOB
@_with_options
def explain(job: str, **options: Any) -> None:
    """Show the plan of a job without running it."""
    from lakeward.cli.jobs import explain_job
    from lakeward.dsl.launch import LaunchOptions

    explain_job(job, LaunchOptions(explain_only=True, **options))


def _of_cluster(command: Any) -> Any:
    """Options of a command about a job of a cluster; it is given a client instead of the first."""

    @functools.wraps(command)
    def with_client(cluster: str, **options: Any) -> None:
        from lakeward.cluster.client import Client

        command(client=Client(cluster), **options)

    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
    return _CLUSTER(as_json(with_client))


_CLUSTER = click.option(
    "--cluster",
    envvar="LAKEWARD_CLUSTER",
    default="~/.lakeward/cluster",
    show_default=True,
    help="Directory of the cluster; $LAKEWARD_CLUSTER.",
)


@main.group()
def cluster() -> None:
    """Run many jobs on this machine, and manage them."""


_CLUSTER_OPTIONS = [
    click.option(
        "--dir",
        "directory",
        envvar="LAKEWARD_CLUSTER",
        default="~/.lakeward/cluster",
        show_default=True,
        help="Its files.",
    ),
    click.option("--port", default=0, show_default=True, help="To listen at, on 127.0.0.1; 0: any."),
    click.option("--slots", type=click.IntRange(min=1), help="Subtasks that run at a time; by default one a core."),
    click.option("--allow", "allowed", multiple=True, metavar="FOLDER", help="Whose modules may be run as jobs."),
    click.option("--savepoints", multiple=True, metavar="FOLDER", help="Where savepoints may be, besides its own."),
    click.option("--pass-env", "variables", multiple=True, metavar="NAME", help="Variable that jobs may see."),
]


def _with_cluster_options(command: Any) -> Any:
    for option in reversed(_CLUSTER_OPTIONS):
        command = option(command)
    return command


@cluster.command("start")
@_with_cluster_options
def start_command(**options: Any) -> None:
    """Start a cluster, and keep it running; jobs that it had before go on."""
    from lakeward.cli.cluster import start_cluster

    sys.exit(start_cluster(**options))


@cluster.command("coordinate", hidden=True)
@_with_cluster_options
def coordinate_command(**options: Any) -> None:
    """Be the coordinator of a cluster; `lakeward cluster start` starts it."""
    from lakeward.cli.cluster import coordinate

    sys.exit(coordinate(**options))


@main.command()
@click.argument("job", metavar="MODULE:FUNCTION")
@click.option("--name", help="For people; by default the function's.")
@click.option("--parallelism", default=1, show_default=True, type=click.IntRange(min=1), help="Slots that it takes.")
@click.option("--venv", metavar="DIR", help="Virtual environment to run it in, below an allowed folder.")
@click.option("--from", "savepoint", metavar="DIR", help="Savepoint to begin from.")
@_of_cluster
def submit(**options: Any) -> None:
    """Run a job in a cluster."""
    from lakeward.cli.cluster import submit_job

    submit_job(**options)


@main.command("list")
@_of_cluster
def list_jobs_command(**options: Any) -> None:
    """List the jobs of a cluster."""
    from lakeward.cli.cluster import list_jobs

    list_jobs(**options)


@main.command("show")
@click.argument("job")
@_of_cluster
def show_job_command(**options: Any) -> None:
    """Show a job of a cluster: how it is getting on, and why it has failed."""
    from lakeward.cli.cluster import show_job

    show_job(**options)


@main.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job is over.")
@_of_cluster
def logs(**options: Any) -> None:
    """Print the log of a job of a cluster."""
    from lakeward.cli.cluster import show_logs

    show_logs(**options)


@main.command()
@click.argument("job")
@_of_cluster
def cancel(**options: Any) -> None:
    """End a job of a cluster at once, without another checkpoint."""
    from lakeward.cli.cluster import cancel_job

    cancel_job(**options)


@main.command()
@click.argument("job")
@click.option("--savepoint", metavar="DIR", help="Where to save its last checkpoint.")
@_of_cluster
def stop(**options: Any) -> None:
    """Stop a job of a cluster with a last checkpoint."""
    from lakeward.cli.cluster import stop_job

    stop_job(**options)


@main.command()
@click.argument("job")
@click.argument("parallelism", type=click.IntRange(min=1))
@_of_cluster
def rescale(**options: Any) -> None:
    """Let a job of a cluster go on with another PARALLELISM."""
    from lakeward.cli.cluster import rescale_job

    rescale_job(**options)


@main.command()
@click.argument("job", metavar="JOB|CHECKPOINT_DIR")
@click.argument("directory")
@click.option("--checkpoint", type=int, help="Of a checkpoint directory: which; by default the newest that is whole.")
@_CLUSTER
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def savepoint(job: str, directory: str, checkpoint: int | None, cluster: str, as_json: bool) -> None:
    """Write a savepoint into DIRECTORY: of a running JOB of a cluster, or of the job with CHECKPOINT_DIR.

    The job goes on. Of a checkpoint directory, which is a path with a slash or a URI, a committed checkpoint is copied;
    a job of a cluster takes a new one. `lakeward run --from DIRECTORY` starts a job from it, at any parallelism.
    """
    if "/" in job or Path(job).is_dir():
        from lakeward.cli.state import write_savepoint

        write_savepoint(job, directory, checkpoint)
        return
    from lakeward.cli.cluster import save_job
    from lakeward.cluster.client import Client

    save_job(Client(cluster), as_json, job, directory)


@main.group()
def state() -> None:
    """Look at the keyed state in a savepoint or checkpoint directory."""


@state.command("list")
@click.argument("directory")
@click.option("--checkpoint", type=int, help="Which; by default the newest that is whole.")
def list_state_command(directory: str, checkpoint: int | None) -> None:
    """List the tables of all operators in DIRECTORY, with their rows and columns."""
    from lakeward.cli.state import list_state

    list_state(directory, checkpoint)


@state.command("read")
@click.argument("directory")
@click.option("--uid", required=True, help="The operator.")
@click.option("--table", help="Which of its tables, if it has several.")
@click.option("--checkpoint", type=int, help="Which; by default the newest that is whole.")
@click.option("--to", "file", metavar="FILE.parquet|FILE.csv", help="Where to write all rows; else some are printed.")
def read_state_command(directory: str, uid: str, table: str | None, checkpoint: int | None, file: str | None) -> None:
    """Show a table of an operator's state in DIRECTORY, or write it to a file."""
    from lakeward.cli.state import show_state

    show_state(directory, uid, table, checkpoint, file)


@main.command()
@click.option("--directory", default="demo-output", show_default=True, help="Where everything is put.")
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(min=1000), help="Nexmark events.")
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(min=1), help="Kafka partitions.")
def demo(directory: str, events: int, partitions: int) -> None:
    """Kafka to Iceberg on this machine, killed twice with -9 on the way; counts what was lost or doubled."""
    from lakeward.cli.demo import run_demo

    sys.exit(run_demo(directory, events, partitions))


@main.group()
def checkpoints() -> None:
    """Look at the checkpoints of a job."""


@checkpoints.command("list")
@click.argument("directory")
def list_command(directory: str) -> None:
    """List the checkpoints in DIRECTORY, newest first."""
    from lakeward.cli.checkpoints import list_checkpoints

    list_checkpoints(directory)


@checkpoints.command("show")
@click.argument("directory")
@click.argument("checkpoint", type=int, required=False)
def show_command(directory: str, checkpoint: int | None) -> None:
    """Show what CHECKPOINT (by default the newest) in DIRECTORY holds: positions, state, committables."""
    from lakeward.cli.checkpoints import show_checkpoint

    show_checkpoint(directory, checkpoint)


@checkpoints.command("verify")
@click.argument("directory")
def verify_command(directory: str) -> None:
    """Check every file of every checkpoint in DIRECTORY; exit status 1 when one is damaged."""
    from lakeward.cli.checkpoints import verify_checkpoints

    sys.exit(verify_checkpoints(directory))


if __name__ == "__main__":
    main()
