"""Checkpoints in a real S3 server: conditional puts, jobs that are killed, and a network that fails in every way."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from click.testing import CliRunner

import lakeward as lw
from lakeward.cli.main import main
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.checkpoint.store_object import ObjectStore
from lakeward.engine.core.errors import CheckpointError, ConfigError, Retry
from lakeward.testing import CheckpointStoreSuite

pytestmark = pytest.mark.xdist_group("s3")
JOB = Path(__file__).parent / "s3_job.py"
DEADLINE_S = 60.0
EVENTS = 60_000
CREATORS = 4
SECRET = "CANARY-s3-secret-5d1f"


def free_port() -> int:
    """A port that is free, and so is that for gRPC, which SeaweedFS takes ten thousand above."""
    while True:
        port = random.randint(20_000, 30_000)
        with suppress(OSError), ExitStack() as stack:
            for number in (port, port + 10_000):
                stack.enter_context(closing(socket.create_server(("127.0.0.1", number))))
            return port


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a SeaweedFS server with a bucket "lake"."""
    folder = tmp_path_factory.mktemp("s3")
    names = ("master.port", "volume.port", "filer.port", "s3.port", "s3.port.iceberg", "s3.port.lance")
    ports = [free_port() for _ in names]
    options = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    options.append("-master.telemetry=false")
    weed = Path(sys.executable).parent / "weed"
    with (folder / "log").open("wb") as log:
        command = [str(weed), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(ports[3]).items():
                patch.setenv(name, value)
            make_bucket(ports[3], folder / "log", process)
        yield ports[3]
    finally:
        process.kill()  # it takes half a minute to end by itself
        process.wait()


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def make_bucket(port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
    import http.client

    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with (
            suppress(OSError, http.client.HTTPException),
            closing(http.client.HTTPConnection("127.0.0.1", port)) as one,
        ):
            one.request("PUT", "/lake")
            if one.getresponse().status in (200, 409):
                return
        time.sleep(0.1)


@pytest.fixture
def bucket(s3: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A place in the bucket that is this test's own."""
    for name, value in environment(s3).items():
        monkeypatch.setenv(name, value)
    return f"s3://lake/{tmp_path.name}-{random.getrandbits(40):x}"


class TestS3(CheckpointStoreSuite):
    """What every store has to do, on the server."""

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: str) -> None:
        self.places = iter(f"{bucket}/{number}" for number in range(100))

    def make_store(self) -> CheckpointStore:
        return ObjectStore(next(self.places))

    @pytest.mark.soak  # the server lets them wait for each other; a smaller race is below
    def test_of_many_racing_creators_exactly_one_wins(self) -> None:
        """As for every store."""
        super().test_of_many_racing_creators_exactly_one_wins()


def test_of_many_that_create_one_object_at_once_exactly_one_has_created_it(bucket: str) -> None:
    stores = [ObjectStore(bucket) for _ in range(CREATORS)]
    with ThreadPoolExecutor(CREATORS) as pool:
        for round_number in range(3):
            path, start = f"claims/{round_number}", threading.Barrier(CREATORS)

            def create(number: int, path: str = path, start: threading.Barrier = start) -> bool:
                start.wait()
                return stores[number].create_if_absent(path, str(number).encode())

            won = list(pool.map(create, range(CREATORS)))
            assert won.count(True) == 1
            assert stores[0].read(path) == str(won.index(True)).encode()


class Job:
    """A job in a process of its own."""

    def __init__(self, checkpoints: str, out: Path, port: int, parallelism: int = 1) -> None:
        self.log = out / "log"
        out.mkdir(exist_ok=True)
        outside = os.environ | environment(port)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(JOB), checkpoints, str(out), str(parallelism), str(EVENTS)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=outside,
            )

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, self.log.read_text()
        return out

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    bids = lw.NexmarkSource(EVENTS, rate=20_000, splits=4)
    env, sink = lw.StreamExecutionEnvironment(), lw.MemorySink()
    env.from_source(bids).select("price").sink_to(sink)
    env.execute("straight")
    return sink.table().num_rows, sum(sink.table()["price"].to_pylist())


def found(out: Path) -> tuple[int, int]:
    bids = ds.dataset(str(out / "bids"), format="parquet").to_table()
    windows = ds.dataset(str(out / "windows"), format="parquet").to_table()
    assert sum(windows["n"].to_pylist()) == bids.num_rows
    return bids.num_rows, sum(bids["price"].to_pylist())


def checkpoints_in(bucket: str) -> int:
    return sum(path.endswith("committed.json") for path in open_store(bucket).list("checkpoints/"))


def wait_for_checkpoint(job: Job, bucket: str, after: int) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        names = [path for path in open_store(bucket).list("checkpoints/") if path.endswith("committed.json")]
        newest = max((int(path.split("/")[1]) for path in names), default=0)
        if newest > after:
            return newest
        assert job.process.poll() is None, job.log.read_text()
        assert time.monotonic() < deadline, job.log.read_text()


@pytest.mark.kill
def test_a_job_with_checkpoints_on_s3_is_killed_and_goes_on_at_another_parallelism(
    s3: int, bucket: str, tmp_path: Path, answer: tuple[int, int]
) -> None:
    newest = 0
    for parallelism in (1, 2, 1):
        job = Job(bucket, tmp_path / "out", s3, parallelism)
        newest = wait_for_checkpoint(job, bucket, newest)
        job.kill()
    assert lw.savepoint(bucket, f"{bucket}-saved") >= newest
    assert lw.read_state(f"{bucket}-saved", "counts").num_rows > 0
    assert "ended=True" in Job(bucket, tmp_path / "out", s3, 2).end()
    assert found(tmp_path / "out") == answer
    shown = CliRunner().invoke(main, ["checkpoints", "list", bucket])
    assert shown.exit_code == 0, shown.output
    assert CliRunner().invoke(main, ["checkpoints", "verify", bucket]).exit_code == 0
    kept = [path for path in open_store(bucket).list("") if path.endswith("manifest")]
    for path in [*kept, *open_store(bucket).list("checkpoints/")]:
        assert SECRET.encode() not in (open_store(bucket).read(path) or b"")
    assert SECRET not in (tmp_path / "out" / "log").read_text()


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_when_a_worker_is_killed_state_is_restored_from_this_machines_disk(
    s3: int, bucket: str, tmp_path: Path, answer: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAKEWARD_PROCESSES", raising=False)
    job = Job(bucket, tmp_path / "out", s3, 2)
    wait_for_checkpoint(job, bucket, 2)
    os.kill(next(worker for starter in children(job.process.pid) for worker in children(starter)), signal.SIGKILL)
    assert "ended=True restarts=1" in job.end()
    assert found(tmp_path / "out") == answer
    log = job.log.read_text()
    here_and_there = re.findall(r"restored (\d+) bytes from this machine's disk and (\d+) from", log)
    assert len(here_and_there) == 2, log
    assert all(int(here) > 0 and int(there) == 0 for here, there in here_and_there), here_and_there


class FaultyNetwork:
    """A proxy in front of the server that fails as networks do, by chance.

    Args:
        target: The server's port.
        seed: Of chance.
    """

    def __init__(self, target: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.target = target
        self.healed = False
        self.faults: dict[str, int] = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self.target), timeout=10) as server:
            back = threading.Thread(target=self._back, args=(server, client), daemon=True)
            back.start()
            while data := client.recv(65536):
                fault = self._fault(("cut before", "torn", "refused"))
                if fault == "cut before":
                    break
                if fault == "refused":
                    client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    break
                server.sendall(data[: len(data) // 2] if fault == "torn" else data)
                if fault == "torn":
                    break
            for one in (client, server):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        """What the server answers; it may be lost though the server has done what was asked."""
        with suppress(OSError):
            while data := server.recv(65536):
                if self._fault(("answer lost",)):
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def _fault(self, kinds: tuple[str, ...]) -> str:
        if self.healed or self.rng.random() > 0.04:
            return ""
        kind = self.rng.choice(kinds)
        self.faults[kind] = self.faults.get(kind, 0) + 1
        return kind


@contextmanager
def faulty(target: int, seed: int) -> Iterator[FaultyNetwork]:
    network = FaultyNetwork(target, seed)
    try:
        yield network
    finally:
        network.listener.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_job_whose_object_store_fails_in_every_way_gives_the_exact_answer(
    s3: int, bucket: str, tmp_path: Path, answer: tuple[int, int], seed: int
) -> None:
    with faulty(s3, seed) as network:
        out = Job(bucket, tmp_path / "out", network.port).end()
        print(f"seed {seed}: {network.faults}, {out}")
        assert sum(network.faults.values()) > 3
    assert found(tmp_path / "out") == answer


def test_a_creation_whose_answer_is_lost_is_never_two_creations(
    s3: int, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = ObjectStore(bucket)
    with faulty(s3, 7) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{network.port}")
        network.healed = True
        store = ObjectStore(bucket)
        network.healed = False
        for number in range(60):
            with suppress(lw.LakewardError):
                store.create_if_absent(f"claims/{number}", b"mine")
            assert (
                not direct.create_if_absent(f"claims/{number}", b"other") or direct.read(f"claims/{number}") == b"other"
            )


def test_an_object_store_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="s3://lake/nowhere") as caught:
        ObjectStore("s3://lake/nowhere").list("")
    assert "AWS_ENDPOINT_URL" in caught.value.hint
    assert SECRET not in str(caught.value)


def test_a_forked_worker_does_not_give_up_for_good_when_the_object_store_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment(free_port()).items():
        monkeypatch.setenv(name, value)
    store = ObjectStore("s3://lake/nowhere")
    monkeypatch.setattr(store, "_opened_by", os.getppid())  # as if forked
    with pytest.raises(CheckpointError, match="s3://lake/nowhere") as caught:
        store.list("")
    assert caught.value.retry is not Retry.NO
