"""What a seed decides before anything runs: the program, the sizes, and which faults happen how often.

Each seed first draws which kinds of fault are on at all (swarm testing: Groce, Zhang, Eide, Chen and Regehr, 2012): a
run in which everything fails at once hides the bugs that need a long quiet stretch between two failures.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from lakeward.engine.config import EngineConfig

APPENDING = ("filter", "tumbling", "sliding", "union", "tree", "python", "reduce", "cascade", "window_all")
"""Programs whose streams only append; see `programs`."""

UPDATING = ("totals", "regrouped", "full_join", "left_join", "anti_join", "top_n", "top_totals", "latest")
"""Programs whose streams take rows back; see `updating`."""

EARLY = ("early", "early_totals", "early_sessions", "idle_early")
"""Programs whose windows send results before their end, which they take back; see `event_time`."""

IDLE = ("idle", "idle_early", "idle_cascade")
"""Programs whose splits fall silent; see `event_time`."""

FUNCTIONS = ("reminders", "connected", "rules", "vectorised")
"""Programs of process functions; see `functions`."""

PROGRAMS = (*APPENDING, "recent", *UPDATING, *EARLY, "idle", "idle_cascade", "asynchronous", "match", *FUNCTIONS)
"""The programs to draw from."""

CALM_TIMEOUT_MS = 10_000_000
"""A checkpoint timeout that nothing runs into."""

CALM_HEARTBEAT_MS = 4000
"""The timeout of heartbeats that a job has if it does not say so."""

OPTIMISED = 0.8
"""The share of starts whose plan is optimised."""

OVERTAKING = 0.35
"""The share of seeds in which barriers may overtake rows."""


PROCESSES = 0.35
"""The share of seeds whose jobs have worker processes in most of their starts."""


class Fault(Enum):
    """What can go wrong, with the range of rates that a seed draws from and how often it can happen in a run.

    Rates are a chance per port call, or per step for what comes from outside.
    """

    STORE_ERROR = ("a store call fails", 0.002, 0.05, 15)
    STORE_LOST = ("a store write happens and its answer is lost", 0.002, 0.1, 10)
    TORN_FILE = ("a state file is cut short, and the process dies", 0.02, 0.2, 2)
    FLIPPED_FILE = ("a bit of a state file is flipped, and the process dies", 0.02, 0.2, 2)
    BIT_ROT = ("a bit of a stored file flips at rest", 0.0005, 0.005, 2)
    TABLE_ERROR = ("a table call fails", 0.02, 0.2, 10)
    TABLE_LOST = ("a table commit happens and its answer is lost", 0.02, 0.5, 8)
    RIVAL_COMMIT = ("somebody else commits to the table in between", 0.05, 0.5, 50)
    SOURCE_ERROR = ("a source cannot be read", 0.002, 0.02, 8)
    ACK_TOO_LATE = ("an acknowledgement comes after every timeout", 0.01, 0.2, 8)
    ACK_LATE = ("an acknowledgement is late", 0.05, 0.5, 100)
    CRASH = ("the process dies at a port call", 0.002, 0.03, 8)
    CRASH_BETWEEN = ("the process dies between two steps", 0.0005, 0.01, 8)
    PAUSE = ("the process stands still in a port call while a new one is started, then goes on", 0.002, 0.03, 5)
    PAUSE_BETWEEN = ("the process is taken for dead between two steps", 0.0005, 0.005, 5)
    STOP = ("the user stops the job and starts it again", 0.0005, 0.005, 4)
    STATELESS = ("the job is started without its checkpoints", 0.0005, 0.003, 2)
    SAVEPOINT = ("the user has a savepoint written", 0.0005, 0.005, 4)
    MOVE = ("the user stops the job with a savepoint, and goes on from it in another directory", 0.0005, 0.005, 3)
    CLOCK_JUMP = ("the wall clock jumps, forth or back", 0.0005, 0.01, 6)
    WORKER_DIES = ("a worker process dies", 0.0005, 0.005, 6)
    WORKER_STOPS = ("a worker process stands still, and gives no sign of life", 0.0005, 0.005, 5)
    NETWORK_PARTITION = ("a worker is cut off from all others for a while", 0.0005, 0.005, 5)
    NETWORK_BREAK = ("a connection breaks, and what is on its way is lost", 0.0002, 0.003, 5)
    NETWORK_LOSS = ("nothing more gets through a connection, which breaks for that in the end", 0.0002, 0.003, 4)
    NETWORK_DOUBLE = ("a frame comes twice", 0.0002, 0.005, 5)
    NETWORK_DELAY = ("what is sent comes late", 0.005, 0.1, 100)

    def __init__(self, text: str, rate_min: float, rate_max: float, times_max: int) -> None:
        self.text = text
        self.rate_min = rate_min
        self.rate_max = rate_max
        self.times_max = times_max


LATER = frozenset(list(Fault)[list(Fault).index(Fault.SAVEPOINT) :])
"""Faults that were added when seeds had been found; they are drawn apart."""


@dataclass(frozen=True, slots=True)
class Swarm:
    """Narrows what seeds may draw, to look for one kind of bug; everything that is left out is drawn freely.

    Args:
        programs: Programs to draw from.
        rates: Faults that are on, with their rates; no other one is.
        parallelism: Lowest and highest parallelism of an attempt.
        rows: Rows a split.
        interval_ms: Checkpoint interval.
        timeout_ms: Checkpoint timeout.
        retained: Checkpoints kept.
        channel_batches: Messages a channel holds.
        trusting: Whether a start does not read a committed checkpoint before it restores it, unless the start before
            has found out that it is damaged.
        processes: The share of seeds whose jobs have worker processes.
    """

    programs: tuple[str, ...] = PROGRAMS
    rates: Mapping[Fault, float] | None = None
    parallelism: tuple[int, int] = (1, 3)
    rows: tuple[int, int] | None = None
    interval_ms: int | None = None
    timeout_ms: int | None = None
    retained: int | None = None
    channel_batches: int | None = None
    trusting: bool = False
    processes: float = PROCESSES


@dataclass(frozen=True, slots=True)
class Knobs:
    """Everything fixed for one seed.

    Args:
        program: Its name.
        splits: Splits of each source.
        rows: Rows of the split with the most.
        disorder_us: How far behind the newest one a row's event time may be.
        max_parallelism: Key groups.
        interval_ms: Checkpoint interval.
        timeout_ms: Checkpoint timeout.
        failures_tolerated: Failed checkpoints in a row.
        retained: Checkpoints kept.
        state_memory_bytes: Budget for keyed state.
        unsafe_steps: Steps after which all faults are healed.
        rates: Which faults happen, and how often.
    """

    program: str
    splits: int
    rows: int
    disorder_us: int
    max_parallelism: int
    interval_ms: int
    timeout_ms: int
    failures_tolerated: int
    retained: int
    state_memory_bytes: int
    unsafe_steps: int
    rates: Mapping[Fault, float] = field(default_factory=dict)

    def describe(self, program: bool = True) -> str:
        """One line each, for the report of a violation.

        Args:
            program: Whether the job is a program of the simulator's, to which the first knobs belong.
        """
        left_out = {"rates"} if program else {"rates", "program", "splits", "rows", "disorder_us"}
        plain = [f"  {name} = {getattr(self, name)}" for name in self.__slots__ if name not in left_out]
        rates = [f"  {fault.name} {rate:.4f}: {fault.text}" for fault, rate in self.rates.items()]
        return "\n".join([*plain, "  faults:", *rates])


@dataclass(frozen=True, slots=True)
class AttemptKnobs:
    """What is drawn anew for every start of the job.

    Args:
        parallelism: Of sources and of what is chained to them.
        keyed_parallelism: Of keyed operators.
        sink_parallelism: Of sinks.
        config: The engine's limits and intervals.
    """

    parallelism: int
    keyed_parallelism: int
    sink_parallelism: int
    config: EngineConfig


class Plans:
    """Whether the plan of a start is optimised, whether its barriers may overtake rows, and its worker processes.

    A checkpoint of one plan has to restore the other, unless rows are in flight in it: a plan that wants more columns
    of them refuses it. So either the plan or the alignment changes from start to start.

    Args:
        optimisation: Where from.
        alignment: Where from.
        processes: Where from.
        share: Of seeds that have worker processes at all.
    """

    def __init__(
        self, optimisation: random.Random, alignment: random.Random, processes: random.Random, share: float
    ) -> None:
        self._processes = processes if processes.random() < share else None
        self._optimisation = optimisation
        self._alignment = alignment if alignment.random() < OVERTAKING else None

    def optimise(self) -> bool:
        """For the next start."""
        return self._optimisation.random() < OPTIMISED or self._alignment is not None

    def alignment_timeout_ms(self) -> int | None:
        """For the next start."""
        return None if self._alignment is None else self._alignment.choice((0, 0, 30, None))

    def processes(self) -> int | None:
        """For the next start; None: all tasks are in one."""
        return None if self._processes is None else self._processes.choice((None, 2, 2, 3))

    def heartbeat_timeout_ms(self) -> int:
        """For the next start."""
        return CALM_HEARTBEAT_MS if self._processes is None else self._processes.choice((1500, CALM_HEARTBEAT_MS))


def draw_knobs(rng: random.Random, swarm: Swarm) -> Knobs:
    """Draw a seed's knobs."""
    low, high = swarm.rows or (0, rng.choice((10, 40, 40, 80, 200)))
    return Knobs(
        program=rng.choice(swarm.programs),
        splits=rng.randint(1, 4),
        rows=rng.randint(low, high),
        disorder_us=rng.choice((0, 1_000_000, 7_000_000)),
        max_parallelism=rng.choice((4, 7, 16, 128)),
        interval_ms=swarm.interval_ms or _log_uniform_int(rng, 1, 300),
        timeout_ms=swarm.timeout_ms or rng.choice((rng.randint(20, 2000), CALM_TIMEOUT_MS)),
        failures_tolerated=rng.randint(0, 3),
        retained=swarm.retained or rng.randint(1, 3),
        state_memory_bytes=rng.choice((1_000, 20_000, 1 << 26)),
        unsafe_steps=_log_uniform_int(rng, 50, 1500),
        rates=_draw_rates(rng) if swarm.rates is None else dict(swarm.rates),
    )


def draw_attempt(rng: random.Random, plans: Plans, knobs: Knobs, swarm: Swarm, *, calm: bool) -> AttemptKnobs:
    """Draw the knobs of one start.

    Args:
        rng: Where from.
        plans: Where from what was added to the knobs later, so that seeds keep the rest of their meaning.
        knobs: The seed's.
        swarm: Limits.
        calm: Whether all faults are healed: then no checkpoint times out.
    """
    most = min(swarm.parallelism[1], knobs.max_parallelism)
    counts = [rng.randint(swarm.parallelism[0], most) for _ in range(3)]
    if rng.random() < 0.4:
        counts = [counts[0]] * 3
    config = EngineConfig(
        parallelism=counts[0],
        max_parallelism=knobs.max_parallelism,
        checkpoint_interval_ms=max(knobs.interval_ms, 20) if calm else knobs.interval_ms,
        checkpoint_timeout_ms=CALM_TIMEOUT_MS if calm else knobs.timeout_ms,
        checkpoint_failures_tolerated=knobs.failures_tolerated,
        checkpoints_retained=knobs.retained,
        batch_rows=rng.choice((1, 5, 10, 30)) if not calm else 30,
        channel_batches_max=swarm.channel_batches or rng.randint(1, 4),
        state_memory_bytes=knobs.state_memory_bytes,
        optimise=plans.optimise(),
        alignment_timeout_ms=plans.alignment_timeout_ms(),
        processes=plans.processes(),
        heartbeat_timeout_ms=CALM_HEARTBEAT_MS if calm else plans.heartbeat_timeout_ms(),
    )
    return AttemptKnobs(counts[0], counts[1], counts[2], config)


def _draw_rates(rng: random.Random) -> dict[Fault, float]:
    share = rng.choice((0.1, 0.3, 0.6))
    return {fault: _log_uniform(rng, fault.rate_min, fault.rate_max) for fault in Fault if rng.random() < share}


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _log_uniform_int(rng: random.Random, low: int, high: int) -> int:
    return min(high, int(_log_uniform(rng, low, high + 1)))
