"""Every limit and interval of the engine, with its unit in its name."""

from __future__ import annotations

from dataclasses import dataclass

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.keygroups import MAX_PARALLELISM_DEFAULT
from lakeward.engine.core.redaction import Redaction


@dataclass(frozen=True, slots=True)
class RestartConfig:
    """Exponential backoff between attempts.

    >>> from lakeward import StreamExecutionEnvironment
    >>> once = EngineConfig(restart=RestartConfig(attempts_max=0))  # the first failure is the last
    >>> StreamExecutionEnvironment(config=once).config.restart.attempts_max
    0

    Args:
        attempts_max: Failed attempts in a row before the job gives up; an attempt that completed a checkpoint
            starts the count anew.
        delay_min_ms: Wait after the first failure.
        delay_max_ms: Longest wait.
        multiplier: Each wait is this times the one before.
    """

    attempts_max: int = 10
    delay_min_ms: int = 500
    delay_max_ms: int = 30_000
    multiplier: float = 2.0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a job is run.

    What an environment's own arguments say goes before what is said here.

    >>> from lakeward import StreamExecutionEnvironment
    >>> config = EngineConfig(parallelism=4, state_memory_bytes=256 << 20)
    >>> env = StreamExecutionEnvironment(config=config, parallelism=2, checkpoint_interval="30s")
    >>> env.config.parallelism, env.config.checkpoint_interval_ms, env.config.state_memory_bytes
    (2, 30000, 268435456)

    Args:
        parallelism: Subtasks of an operator that says nothing else.
        processes: Worker processes that the subtasks are dealt to; None: as many as the highest parallelism. With one,
            everything runs in the process of the job's script.
        max_parallelism: Key groups, and so the highest parallelism; fixed for the life of a job's state.
        checkpoint_interval_ms: Time between checkpoint starts.
        checkpoint_timeout_ms: A checkpoint that takes longer is given up.
        alignment_timeout_ms: How long a task waits for the barriers of a checkpoint to be aligned, counted from the
            checkpoint's start. After that they overtake the rows before them, which are stored in the checkpoint
            (an unaligned checkpoint; 0: always); so that checkpoints stay quick where rows pile up. None: as long as
            it takes.
        checkpoint_failures_tolerated: Failed checkpoints in a row before the job is restarted.
        checkpoints_retained: Newest completed checkpoints that are kept.
        batch_rows: Rows a source batch should have.
        linger_ms: How long a slow source may hold rows back to fill a batch.
        channel_batches_max: Messages a channel between tasks holds before its sender waits.
        state_memory_bytes: Memory for keyed state, of all operators and worker processes together.
        heartbeat_timeout_ms: How long a worker process may give no sign of life before the job goes on without it.
        restart: The restart policy.
        redact_columns: Columns, and fields inside of them, whose values no error and no log line shows, besides those
            that are called like secrets ("password", "api_key", "token", ...); `*`, `?` and `[...]` are wildcards,
            "buyer.name" is a field of one column.
        optimise: Whether columns that nobody reads are left out and sources are told of filters; for tests.

    Raises:
        ConfigError: A number with which no job can run.
    """

    parallelism: int = 1
    processes: int | None = None
    max_parallelism: int = MAX_PARALLELISM_DEFAULT
    checkpoint_interval_ms: int = 10_000
    checkpoint_timeout_ms: int = 600_000
    alignment_timeout_ms: int | None = None
    checkpoint_failures_tolerated: int = 0
    checkpoints_retained: int = 3
    batch_rows: int = 32_768
    linger_ms: int = 20
    channel_batches_max: int = 8
    state_memory_bytes: int = 1 << 30
    heartbeat_timeout_ms: int = 4000
    restart: RestartConfig = RestartConfig()
    redact_columns: tuple[str, ...] = ()
    optimise: bool = True

    def __post_init__(self) -> None:
        leasts = dict.fromkeys(("linger_ms", "checkpoint_failures_tolerated", "state_memory_bytes"), 0)
        leasts |= dict.fromkeys(("max_parallelism", "checkpoint_interval_ms", "checkpoint_timeout_ms"), 1)
        leasts |= dict.fromkeys(("checkpoints_retained", "batch_rows", "channel_batches_max"), 1)
        leasts |= {"heartbeat_timeout_ms": 1000} | ({} if self.processes is None else {"processes": 1})
        leasts |= {} if self.alignment_timeout_ms is None else {"alignment_timeout_ms": 0}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, below {least}", hint=f"give {least} or more")
        hint = 'list names: redact_columns=("email", "card_*")'
        expect(self.redact_columns, (list, tuple), "redact_columns", hint)
        for column in self.redact_columns:
            expect(column, str, "a column of redact_columns", hint)

    @property
    def redaction(self) -> Redaction:
        """Which values are not shown.

        >>> EngineConfig(redact_columns=("email",)).redaction.show({"email": "ada@example.org", "shop": "a"})
        "{'email': ***, 'shop': 'a'}"
        """
        return Redaction(tuple(self.redact_columns))
