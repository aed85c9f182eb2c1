"""What a job says of the size of its states."""

from __future__ import annotations

from typing import Any

import lakeward as lw


class Remembers(lw.KeyedProcessFunction):
    seen: lw.ValueState[int]
    rows: lw.ListState[str]
    names: lw.MapState[str, int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.seen.value = row["n"]
        self.rows.append("text" * row["n"])
        self.names[f"name {row['n'] % 3}"] = 1
        if row["n"] >= 900:
            self.seen.clear()
            self.rows.clear()


def test_entries_and_bytes_of_each_state_are_among_the_metrics(tmp_path: Any) -> None:
    env = lw.StreamExecutionEnvironment(checkpoint_interval="1h", checkpoint_dir=str(tmp_path), parallelism=2)
    rows = env.from_collection([{"k": n % 500, "n": n} for n in range(1_000)])
    rows.key_by("k").process(Remembers(), returns=rows.schema, uid="remembers").sink_to(lw.BlackholeSink(), uid="out")
    found = env.execute("job").metrics["remembers"]
    assert found["state.seen.entries"] == 400
    assert found["state.rows.entries"] == 800
    assert found["state.names.entries"] == len({(n % 500, n % 3) for n in range(1_000)})
    assert found["state.timers.event.entries"] == 0
    assert found["state.seen.bytes"] > 400 * 16
    assert found["state.rows.bytes"] > 800 * 100
