"""Low prices from every bid on: as cep_q1, but each bid may begin a run, within another or not."""

from __future__ import annotations

import lakeward as lw
from lakeward.examples.nexmark.cep_q1 import LOW, MEASURES


def cep_q2(bids: lw.DataStream) -> lw.DataStream:
    """When the run of low bids from each bid on began and ended, and its average."""
    return bids.key_by("auction", "bidder").match(LOW.skip("to_next_row"), MEASURES, uid="runs")
