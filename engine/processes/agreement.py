"""What a worker checks before it begins: that its job is the coordinator's, and that both see the same checkpoints."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from lakeward.engine.checkpoint import paths
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.ids import Generation
from lakeward.engine.graph.outline import difference, outline
from lakeward.engine.processes.launcher import WorkerSpec
from lakeward.engine.processes.settings import WorkerJob


def check_agreement(job: WorkerJob, spec: WorkerSpec, plan: Sequence[str]) -> None:
    """Check what a forked worker has anyway, and one that another host started may not.

    Args:
        job: The job, as this worker made it.
        spec: Which worker this is.
        plan: The outline of the coordinator's plan.

    Raises:
        ConfigError: The plans differ, or the checkpoint directory is not the coordinator's.
    """
    here = f"worker {spec.number} on {socket.gethostname()}"
    differing = difference(outline(job.plan), plan)
    if differing is not None:
        raise ConfigError(
            f"{here} made another plan of job '{job.name}' than the coordinator: it has <{differing[0]}>, the "
            f"coordinator has <{differing[1]}>",
            hint="give all hosts the same job file, and see that the job does not depend on the host it is made on",
        )
    if job.store.read(paths.generation(Generation(spec.attempt))) is None:
        raise ConfigError(
            f"{here} does not see the coordinator's checkpoint directory: attempt {spec.attempt} is not in it",
            hint="use one that all hosts see: an object store (s3://bucket/job), or a folder on a shared file system",
        )
