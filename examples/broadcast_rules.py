"""Orders checked by rules that are changed and withdrawn while the job runs, by broadcast state.

    python examples/broadcast_rules.py

Every subtask gets all rules and keeps a copy; orders are split by shop. An order waits until event time has come to it:
then the rules that hold at its time are known, however the two streams were read, and the answer is the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import lakeward as lw


@dataclass
class Order:
    """What somebody orders."""

    shop: str
    amount: float
    at: datetime


@dataclass
class Rule:
    """From a time on, orders above a limit are to be looked at; without one the rule is withdrawn."""

    name: str
    limit: float | None
    at: datetime


@dataclass
class Version:
    """A rule's limit from a time on."""

    at: datetime
    limit: float | None


@dataclass
class Match:
    """An order that a rule is about."""

    rule: str
    shop: str
    amount: float
    at: datetime


class Checked(lw.BroadcastProcessFunction):
    """Checks each order by the rules of its time."""

    rules: lw.BroadcastState[str, list[Version]]
    waiting: lw.ListState[Order]

    def process(self, order: Order, ctx: lw.KeyedContext) -> None:
        """Keep an order until its time has come."""
        self.waiting.append(order)
        ctx.timers.register_event_time(order.at)

    def process_broadcast(self, rule: Rule, ctx: lw.ProcessContext) -> None:
        """Learn a rule; in every subtask."""
        versions = [*self.rules.get(rule.name, []), Version(rule.at, rule.limit)]
        self.rules[rule.name] = sorted(versions, key=lambda version: version.at)

    def on_timer(self, timestamp: datetime, ctx: lw.KeyedContext) -> Iterator[Match]:
        """All rules up to this time are known: check the orders of this time."""
        orders = list(self.waiting)
        self.waiting.replace(order for order in orders if order.at > timestamp)
        for order in orders:
            if order.at <= timestamp:
                for name, versions in sorted(self.rules.items()):
                    limit = limit_at(versions, order.at)
                    if limit is not None and order.amount > limit:
                        yield Match(name, order.shop, order.amount, order.at)


def limit_at(versions: list[Version], time: datetime) -> float | None:
    """A rule's limit at a time; None: it does not hold then."""
    return next((version.limit for version in reversed(versions) if version.at <= time), None)


def matches(orders: lw.DataStream, rules: lw.DataStream) -> lw.DataStream:
    """The job: from orders and rules, both with event time, to matches."""
    return orders.key_by("shop").connect(rules.broadcast()).process(Checked(), returns=Match, uid="checked")


def main() -> None:
    """Run it on a handful of orders and rules."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    some = [("a", 120.0, 1), ("b", 90.0, 2), ("a", 120.0, 6), ("b", 300.0, 7), ("a", 900.0, 12)]
    changes = [("large", 100.0, 0), ("large", 200.0, 5), ("large", None, 10)]
    env = lw.StreamExecutionEnvironment()
    time = lw.WatermarkStrategy.monotonous("at")
    minutes = [noon + timedelta(minutes=minute) for minute in range(13)]
    orders = env.from_collection([Order(s, n, minutes[at]) for s, n, at in some], watermark=time, uid="orders")
    rules = env.from_collection([Rule(name, n, minutes[at]) for name, n, at in changes], watermark=time, uid="rules")
    matches(orders, rules).sink_to(lw.PrintSink(), uid="matches")
    env.execute("broadcast-rules")


if __name__ == "__main__":
    main()
