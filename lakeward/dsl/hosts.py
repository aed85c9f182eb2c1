"""A job on several hosts: what `env.execute` does under `lakeward run --hosts`."""

from __future__ import annotations

import os
from dataclasses import replace

from lakeward.dsl.launch import HostsLaunch
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.execute import JobDefinition, Ports
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.processes.command_launcher import CommandLauncher
from lakeward.engine.processes.orders import JobReference
from lakeward.engine.processes.remote import workers_of


def on_hosts(
    job: JobDefinition, checkpoint_dir: str | None, ports: Ports, launch: HostsLaunch
) -> tuple[JobDefinition, Ports]:
    """A job whose workers are started on other hosts, one for each in the hosts file.

    Raises:
        ConfigError: Its checkpoints are in memory, or there are more workers than subtasks.
    """
    if checkpoint_dir is None:
        raise ConfigError(
            f"job '{job.name}' keeps its checkpoints in memory, which other hosts do not see",
            hint="give --checkpoint-dir: an object store (s3://bucket/job), or a folder on a shared file system",
        )
    count = len(launch.hosts.workers)
    config = replace(job.config, processes=count)
    _, physical = prepare(job.graph, config)
    if workers_of(physical, config) < count:
        raise ConfigError(
            f"no operator of job '{job.name}' has a subtask for each of the {count} workers",
            hint=f"give --parallelism {count} or more, or fewer [[workers]]",
        )
    job = replace(job, config=config)
    place = checkpoint_dir if "://" in checkpoint_dir else os.path.abspath(os.path.expanduser(checkpoint_dir))
    reference = JobReference(launch.job, job.name, config, place, launch.release)
    return job, replace(ports, make_launcher=lambda _: CommandLauncher(launch.hosts, reference))
