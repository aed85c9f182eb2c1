"""The brokers of the test kit themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError, SourceError
from lakeward.testing.brokers import (
    BOOTSTRAP_VARIABLE,
    KIND_VARIABLE,
    Broker,
    embedded_broker,
    free_port,
    plan_broker,
    shared_broker,
    start_broker,
)

pytestmark = pytest.mark.kafka

CLOCK = SystemClock()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for_end(pid: int) -> None:
    deadline_ms = CLOCK.monotonic_ms() + 10_000
    while is_alive(pid):
        assert CLOCK.monotonic_ms() < deadline_ms, f"process {pid} is still there"
        CLOCK.sleep_ms(10)


def test_records_come_back_as_they_were_written(broker: Broker) -> None:
    topic = broker.create_topic(partitions=2)
    assert broker.produce(topic, [b"a", None], keys=[b"k", None], partition=1) == 2
    broker.produce(topic, [b"c"], partition=0, timestamps_ms=[5], headers=[("h", b"1")])
    first, second, third = broker.read(topic)
    assert (first.partition, first.value, first.timestamp_ms, first.headers) == (0, b"c", 5, (("h", b"1"),))
    assert (second.partition, second.offset, second.key, second.value) == (1, 0, b"k", b"a")
    assert (third.offset, third.key, third.value) == (1, None, None)
    assert broker.end_offsets(topic) == {0: 1, 1: 2}


def test_records_that_the_broker_does_not_take_are_an_error(broker: Broker) -> None:
    with pytest.raises(SourceError, match="1 records not written to no-such-topic"):
        broker.produce("no-such-topic", [b"x"], partition=5)


def test_an_embedded_broker_ends_with_its_block_and_keeps_its_data(tmp_path: Path) -> None:
    port = free_port()
    with embedded_broker(tmp_path, port) as first:
        assert (first.bootstrap, first.kind) == (f"127.0.0.1:{port}", "noida")
        topic = first.create_topic("kept")
        first.produce(topic, [b"x"])
        pid = first.pid
    assert pid is not None
    assert not is_alive(pid)
    with embedded_broker(tmp_path, port) as second:
        assert [one.value for one in second.read("kept")] == [b"x"]


def test_a_killed_broker_can_be_started_again_on_its_port(tmp_path: Path) -> None:
    with start_broker(tmp_path, "noida") as one:
        first = one.pid
        one.kill()
        one.restart()
        assert one.pid != first
        one.produce(one.create_topic(), [b"x"])


def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys; from lakeward.testing.brokers import embedded_broker\n"
        "broker = embedded_broker(sys.argv[1]); print(broker.pid, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert is_alive(pid)
        os.kill(child.pid, signal.SIGKILL)
    wait_for_end(pid)


def test_two_users_of_one_directory_share_a_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BOOTSTRAP_VARIABLE, raising=False)
    monkeypatch.setenv(KIND_VARIABLE, "noida")
    with shared_broker(tmp_path) as owner:
        with shared_broker(tmp_path) as guest:
            assert guest.bootstrap == owner.bootstrap
            assert guest.pid is None
            with pytest.raises(ConfigError, match="runs elsewhere"):
                guest.kill()
        pid = owner.pid
    assert pid is not None
    assert not is_alive(pid)
    assert str(owner.plan).startswith("noida-db")


def test_a_broker_that_does_not_come_up_shows_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where its directory should be")
    with pytest.raises(SourceError, match=r"the broker on port \d+ ended with exit code \d+; its log .*broker.log"):
        embedded_broker(tmp_path)


def test_an_external_cluster_is_used_when_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, "10.0.0.1:9092")
    monkeypatch.delenv(KIND_VARIABLE, raising=False)
    assert str(plan_broker()) == "10.0.0.1:9092 (from LAKEWARD_TEST_BOOTSTRAP)"
    monkeypatch.setenv(KIND_VARIABLE, "pulsar")
    with pytest.raises(ConfigError, match="none of external, kafka, noida"):
        plan_broker()
    monkeypatch.delenv(BOOTSTRAP_VARIABLE)
    with pytest.raises(ConfigError, match=r"no Kafka broker to test against \(external: LAKEWARD_TEST_BOOTSTRAP"):
        plan_broker("external")
