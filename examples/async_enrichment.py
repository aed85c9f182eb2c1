"""Orders with the names and ratings of their customers, asked of a slow service: many calls at a time, exactly once.

    lakeward run examples/async_enrichment.py

The service is a stand-in inside this file, so that the example needs no network: it takes some milliseconds for each
answer, fails now and then, and does not know everybody. Put your HTTP or database client in its place.

    ORDERS       how many orders there are               (2000)
    CAPACITY     orders that are asked for at a time     (100)
    OUTPUT       a directory for the enriched orders     (lakeward-enriched)
    CHECKPOINTS  a directory for this job's checkpoints  (lakeward-enriched-checkpoints)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

import lakeward as lw


@dataclass
class Order:
    """An order as it comes in."""

    order: int
    customer: int
    amount: int


@dataclass
class Enriched(Order):
    """An order with what the services say."""

    name: str | None
    rating: float | None


class CustomerService:
    """Stands in for a client of a service: slow, and away at times."""

    def __init__(self) -> None:
        self._calls = 0

    async def name_of(self, customer: int) -> str | None:
        """The name of a customer; None if nobody has this number."""
        await asyncio.sleep(0.005)
        self._calls += 1
        if self._calls % 50 == 0:
            raise ConnectionError("the service is restarting")
        return None if customer % 10 == 9 else f"customer {customer}"


class WithName(lw.AsyncFunction):
    """Asks for the customer's name. The client is opened once for each subtask."""

    async def open(self) -> None:
        """Connect."""
        self._service = CustomerService()

    async def invoke(self, row: Order) -> Enriched:
        """Answer one order."""
        return Enriched(row.order, row.customer, row.amount, await self._service.name_of(row.customer), None)


async def with_rating(rows: list[Enriched]) -> list[Enriched]:
    """A model rates many orders at once, which costs it little more than one."""
    await asyncio.sleep(0.005)
    ratings = _model([row.amount for row in rows])
    return [
        Enriched(row.order, row.customer, row.amount, row.name, each) for row, each in zip(rows, ratings, strict=True)
    ]


def _model(amounts: Sequence[int]) -> list[float]:
    return [min(amount, 500) / 500 for amount in amounts]


def main() -> None:
    """Build the job and run it."""
    count = int(os.environ.get("ORDERS", "2000"))
    env = lw.StreamExecutionEnvironment(
        checkpoint_interval="1s", checkpoint_dir=os.environ.get("CHECKPOINTS", "lakeward-enriched-checkpoints")
    )
    rows = [{"order": n, "customer": n * 7 % 100, "amount": n * 13 % 1000} for n in range(count)]
    orders = env.from_collection(rows, schema=Order, uid="orders")
    named = orders.map_async(
        WithName(),
        capacity=int(os.environ.get("CAPACITY", "100")),
        timeout="5s",
        on_timeout="null",
        retries=lw.AsyncRetry(attempts=5, backoff="20ms"),
        uid="names",
    )
    rated = named.map_async(with_rating, batch_rows=64, capacity=256, uid="ratings")
    target = os.environ.get("OUTPUT", "lakeward-enriched")
    rated.sink_to(lw.FilesSink(target, format="parquet"), uid="enriched")
    env.execute("async-enrichment")
    print(f"{count} orders with names and ratings are in {target}")


if __name__ == "__main__":
    main()
