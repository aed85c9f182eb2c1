"""The example with rules by broadcast state: what it prints, and the same answer after a crash and a restore."""

from __future__ import annotations

import random
from typing import Any

import pytest
from example_runs import as_rows, at, in_batches, printed, restored, straight

from lakeward.examples.broadcast_rules import Match, Order, Rule, matches


def inputs(seed: int) -> tuple[list[Order], list[Rule]]:
    rng = random.Random(seed)
    orders = [
        Order(rng.choice("abc"), rng.randrange(400), at(second)) for second in sorted(rng.sample(range(600), 120))
    ]
    limits = (None, 100.0, 200.0, 300.0)
    times = sorted(rng.sample(range(600), 20))
    return orders, [Rule(rng.choice(("large", "odd")), rng.choice(limits), at(second)) for second in times]


def expected(orders: list[Order], rules: list[Rule]) -> list[Match]:
    found = []
    for order in orders:
        limits = {rule.name: rule.limit for rule in rules if rule.at <= order.at}
        for name, limit in limits.items():
            if limit is not None and order.amount > limit:
                found.append(Match(name, order.shop, order.amount, order.at))
    return found


def test_it_runs_as_a_script_and_a_rule_that_was_withdrawn_matches_nothing() -> None:
    assert printed("broadcast_rules") == [
        "rule=large, shop=a, amount=120.0, at=2026-01-01 12:01:00+00:00",
        "rule=large, shop=b, amount=300.0, at=2026-01-01 12:07:00+00:00",
    ]


@pytest.mark.parametrize("run", [straight, restored])
def test_each_order_is_checked_by_the_rules_of_its_time(run: Any) -> None:
    orders, rules = inputs(1)
    assert len(expected(orders, rules)) > 10
    assert run(matches, in_batches(orders, 1), in_batches(rules, 2)) == as_rows(expected(orders, rules))
