"""Bounded queues between two subtasks: the two ends as tasks see them, and both ends in one process."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from lakeward.engine.core.messages import Message


class ChannelWriter(Protocol):
    """The end that a task writes to."""

    @property
    def is_full(self) -> bool:
        """Whether the sender has to wait."""
        ...

    def send(self, message: Message) -> None:
        """Append a message."""
        ...


class ChannelReader(Protocol):
    """The end that a task reads from."""

    def __len__(self) -> int: ...

    def take(self) -> Message:
        """Remove and return the oldest message."""
        ...

    def peek(self, position: int) -> Message:
        """A message that waits; 0 is the oldest."""
        ...

    def remove(self, position: int) -> None:
        """Remove a message that waits: a barrier overtakes those before it."""
        ...


class Channel:
    """Messages from one sending subtask to one receiving subtask, in order.

    The limit is soft by what one step of the sender emits: a sender looks at `is_full` before it takes its next step
    (that is all of back-pressure), and a step never waits in its middle.

    Args:
        batches_max: Messages after which the sender is held.
    """

    __slots__ = ("_batches_max", "_queue")

    def __init__(self, batches_max: int) -> None:
        self._batches_max = batches_max
        self._queue: deque[Message] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether the sender has to wait."""
        return len(self._queue) >= self._batches_max

    def send(self, message: Message) -> None:
        """Append a message."""
        self._queue.append(message)

    def take(self) -> Message:
        """Remove and return the oldest message."""
        return self._queue.popleft()

    def peek(self, position: int) -> Message:
        """A message that waits; 0 is the oldest."""
        return self._queue[position]

    def remove(self, position: int) -> None:
        """Remove a message that waits."""
        del self._queue[position]
