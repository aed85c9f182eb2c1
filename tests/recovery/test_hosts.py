"""A job on two hosts, which are network namespaces: killed, cut off, and called by strangers, with the exact answer."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from test_processes import JOB, SLOW_S, Running, check_answer, children, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

WORKER = [sys.executable, "-m", "lakeward.cli.main", "worker", "--job", "{job}"]


class Network:
    """This host and another one, joined by a cable."""

    def __init__(self) -> None:
        number = os.getpid()
        self.name = f"lakeward-{number}"
        self.cable, self.far_end = f"lw{number}a", f"lw{number}b"
        net = f"10.{200 + number % 50}.{number // 50 % 250}"
        self.here, self.there = f"{net}.1", f"{net}.2"

    def up(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", self.far_end, "netns", self.name)
        run("ip", "addr", "add", f"{self.here}/24", "dev", self.cable)
        run("ip", "link", "set", self.cable, "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.there}/24", "dev", self.far_end)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        run("ip", "-n", self.name, "link", "set", self.far_end, "up")

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        run("ip", "-n", self.name, "link", "set", self.far_end, "down")

    def mend(self) -> None:
        run("ip", "-n", self.name, "link", "set", self.far_end, "up")

    def down(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.cable], capture_output=True, check=False)


def run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip` (iproute2)")
    made = Network()
    try:
        made.up()
    except subprocess.CalledProcessError as error:
        made.down()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    try:
        yield made
    finally:
        made.down()


class OnHosts(Running):
    """A job that runs on this host and the other one."""

    def __init__(self, folder: Path, hosts: str, before: str = "", **options: object) -> None:
        self.folder = folder
        said = {"parallelism": 2, "processes": None, "events": 60_000, "batch_s": SLOW_S, "bad_price": 0}
        said |= {"folder": str(folder)} | options
        job = folder / "job.py"
        lines = ["import json, os, runpy, sys", f"said = {said!r}", before, "sys.argv[1:] = [json.dumps(said)]"]
        job.write_text("\n".join([*lines, f"runpy.run_path({str(JOB)!r}, run_name='__main__')"]))
        (folder / "hosts.toml").write_text(hosts)
        self.log = folder / "job.log"
        command = [sys.executable, "-m", "lakeward.cli.main", "run", str(job), "--hosts", str(folder / "hosts.toml")]
        environment = {**os.environ, "LATER": "0"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)

    @property
    def workers(self) -> list[int]:
        return children(self.process.pid)

    @property
    def far_worker(self) -> int | None:
        """The worker on the other host."""
        here = os.readlink("/proc/self/ns/net")
        for pid in self.workers:
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/net") != here:
                    return pid
        return None

    @property
    def failures(self) -> int:
        return self.log.read_text().count("the job failed and is restarted")


@contextmanager
def on_hosts(folder: Path, hosts: str, **options: object) -> Iterator[OnHosts]:
    job = OnHosts(folder, hosts, **options)
    try:
        yield job
    finally:
        job.process.kill()
        job.process.communicate()


def two_hosts(network: Network, called: int = 7000) -> str:
    """The hosts file; the coordinator listens at port 7000 and says that it does at another."""
    far = ["ip", "netns", "exec", network.name, *WORKER]
    return f"""
        trusted_network = true
        [coordinator]
        listen = "{network.here}:7000"
        address = "{network.here}:{called}"
        [[workers]]
        command = {json.dumps(WORKER)}
        listen = "{network.here}:7001"
        [[workers]]
        command = {json.dumps(far)}
        listen = "0.0.0.0:7002"
        address = "{network.there}:7002"
        """


class Eavesdropper:
    """Passes on what is said to a port, and keeps what callers say."""

    def __init__(self, host: str, port: int, target: int) -> None:
        self.recorded: list[bytearray] = []
        self._target = (host, target)
        self._open: list[socket.socket] = []
        self._listener = socket.create_server((host, port))
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def _begin(self, what: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=what, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                called = socket.socket()
                self._open += [caller, called]
                if called.connect_ex(self._target):
                    hang_up(caller)
                    continue
                self.recorded.append(bytearray())
                self._begin(self._pass_on, caller, called, self.recorded[-1])
                self._begin(self._pass_on, called, caller, bytearray())

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                kept += data[: (1 << 20) - len(kept)]
        hang_up(source)
        hang_up(target)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            hang_up(one)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()


def hang_up(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


class Stranger:
    """Calls ports again and again, and says nothing, nonsense, or what others have said."""

    def __init__(self, places: list[tuple[str, int]], heard: list[bytearray]) -> None:
        self.calls = 0
        self._places = places
        self._heard = heard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._annoy)
        self._thread.start()

    def _annoy(self) -> None:
        rng = random.Random(7)
        with ExitStack() as strangers:
            while not self._stop.wait(0.02):
                for place in self._places:
                    with suppress(OSError):
                        stranger = strangers.enter_context(socket.create_connection(place, 0.2))
                        said = [b"", b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(5000), *map(bytes, self._heard)]
                        self.calls += 1
                        stranger.sendall(rng.choice(said))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def annoyed(network: Network, called: int) -> Iterator[Stranger]:
    """While inside, calls to a port are recorded, and all ports are called by a stranger who repeats what was said."""
    eavesdropper = Eavesdropper(network.here, called, 7000)
    places = [(network.here, 7000), (network.here, 7001), (network.there, 7002)]
    stranger = Stranger(places, eavesdropper.recorded)
    try:
        yield stranger
    finally:
        stranger.stop()
        eavesdropper.close()


def cut_and_mend(job: OnHosts, network: Network) -> None:
    """Cut the cable: it is noticed within five seconds; then mend it."""
    before = job.failures
    network.cut()
    since = time.monotonic()
    job.wait_for("notice", lambda: job.failures > before)
    assert time.monotonic() - since < 5
    network.mend()


@pytest.mark.kill
def test_a_job_on_two_hosts_survives_a_dead_worker_a_cut_cable_and_strangers(network: Network, tmp_path: Path) -> None:
    hosts = two_hosts(network, called=7100)
    with annoyed(network, 7100) as stranger, on_hosts(tmp_path, hosts) as job:
        newest = job.wait_for_checkpoint()
        os.kill(job.wait_for("worker", lambda: job.far_worker), signal.SIGKILL)
        newest = job.wait_for_checkpoint(job.wait_for_checkpoint(newest))
        job.wait_for("restart", lambda: job.failures)
        cut_and_mend(job, network)
        ended = job.end()
        assert stranger.calls > 3
    assert ended["ended"]
    assert ended["restarts"] >= 2
    said = job.log.read_text()
    assert "worker 1" in said
    assert "was killed by signal 9" in said
    assert "a call was refused" in said
    check_answer(tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("said['bad_price'] = int(os.environ['LATER'])", "worker 1 on .* made another plan of job 'processes'"),
        ("assert os.environ['LATER'] == '0', 'no table here'", "AssertionError: no table here .worker 1 on"),
        ("if os.environ['LATER'] == '1': said['name'] = 'other'", "executes no job"),
    ],
)
def test_a_worker_that_makes_another_job_or_none_ends_the_run_with_the_reason(
    line: str, says: str, tmp_path: Path
) -> None:
    commands = [["env", f"LATER={later}", *WORKER] for later in (0, 1)]
    hosts = "\n".join(f"[[workers]]\ncommand = {json.dumps(command)}" for command in commands)
    with on_hosts(tmp_path, hosts, before=line) as job:
        job.process.communicate(timeout=60)
    assert job.process.returncode == 1
    assert re.search(f"error: .*{says}", job.log.read_text()), job.log.read_text()
    assert job.failures == 0


@pytest.mark.soak
@pytest.mark.kill
@pytest.mark.parametrize("seed", range(3))
def test_a_job_on_two_hosts_survives_many_deaths_and_cuts(seed: int, network: Network, tmp_path: Path) -> None:
    rng = random.Random(seed)
    with annoyed(network, 7100), on_hosts(tmp_path, two_hosts(network, called=7100), batch_s=0.05) as job:
        newest = 0
        for _ in range(5):
            newest = job.wait_for_checkpoint(newest)
            if rng.random() < 0.5:
                cut_and_mend(job, network)
            else:
                os.kill(rng.choice(job.wait_for("workers", lambda: job.workers)), signal.SIGKILL)
        assert job.end()["restarts"] >= 5
    check_answer(tmp_path)


@pytest.mark.soak
@pytest.mark.kill
def test_workers_that_are_cut_off_end_by_themselves(network: Network, tmp_path: Path) -> None:
    with on_hosts(tmp_path, two_hosts(network)) as job:
        job.wait_for_checkpoint()
        far = job.wait_for("worker", lambda: job.far_worker)
        network.cut()
        job.process.kill()
        job.process.wait()
        deadline = time.monotonic() + 8
        while Path(f"/proc/{far}").exists():
            assert time.monotonic() < deadline, "the worker lives on"
    with running(tmp_path) as job_here:
        assert job_here.end()["ended"]
    check_answer(tmp_path)
