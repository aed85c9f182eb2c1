"""Fraud detection with state and timers: a small payment, and within a minute a large one from the same account.

    python examples/fraud_detection.py

Thieves try a stolen card with a small amount first. (The walkthrough of Flink's DataStream API, in Python.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import lakeward as lw

SMALL, LARGE = 1.0, 500.0
PATIENCE = timedelta(minutes=1)


@dataclass
class Payment:
    """What an account pays."""

    account: int
    amount: float
    at: datetime


@dataclass
class Alert:
    """A payment that the account's owner should be asked about."""

    account: int
    amount: float
    at: datetime


class FraudDetector(lw.KeyedProcessFunction):
    """Remembers for a minute that an account's last payment was a small one."""

    suspicious_until: lw.ValueState[datetime | None]

    def process(self, payment: Payment, ctx: lw.KeyedContext) -> Iterator[Alert]:
        """Compare a payment with the one before."""
        until = self.suspicious_until.value
        if until is not None:
            # Event time is told between batches, so the timer may not have fired yet though its time has come.
            if payment.amount > LARGE and payment.at <= until:
                yield Alert(payment.account, payment.amount, payment.at)
            self.suspicious_until.clear()
            ctx.timers.delete_event_time(until)
        if payment.amount < SMALL:
            self.suspicious_until.value = payment.at + PATIENCE
            ctx.timers.register_event_time(payment.at + PATIENCE)

    def on_timer(self, timestamp: datetime, ctx: lw.KeyedContext) -> None:
        """The minute is over: forget the account, or state would grow with every account there ever was."""
        if self.suspicious_until.value == timestamp:
            self.suspicious_until.clear()


def alerts(payments: lw.DataStream) -> lw.DataStream:
    """The job: from payments, each account's in their order, to alerts."""
    return payments.key_by("account").process(FraudDetector(), uid="fraud-detector")


def main() -> None:
    """Run it on a handful of payments."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    amounts = [(1, 0.10, 0), (2, 30.0, 5), (1, 900.0, 20), (2, 0.50, 30), (2, 700.0, 95), (1, 850.0, 100)]
    rows = [Payment(account, amount, noon + timedelta(seconds=second)) for account, amount, second in amounts]
    env = lw.StreamExecutionEnvironment()
    payments = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"), uid="payments")
    alerts(payments).sink_to(lw.PrintSink(), uid="alerts")
    env.execute("fraud-detection")


if __name__ == "__main__":
    main()
