"""Kafka brokers for tests and demos: one real broker on loopback, started here and ended with its starter.

Which one: the cluster that `LAKEWARD_TEST_BOOTSTRAP` names; else Apache Kafka itself (one KRaft node, jars by Maven, on
Java 17 or newer); else the `noida-db` binary, which speaks Kafka's protocol and needs no Java. The variable
`LAKEWARD_TEST_BROKER` (kafka, noida) asks for one of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from importlib.resources import files as package_files
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError, LakewardError, SourceError
from lakeward.engine.core.expect import expect

BrokerKind = Literal["external", "kafka", "noida"]

BOOTSTRAP_VARIABLE = "LAKEWARD_TEST_BOOTSTRAP"
"""Environment variable that names a running cluster to test against."""

KIND_VARIABLE = "LAKEWARD_TEST_BROKER"
"""Environment variable that asks for one kind: "kafka" or "noida"."""

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
JAVA_VERSION_MIN = 17

_POM_DIRECTORY = Path(__file__).resolve().parents[2] / "tests" / "kafka"

# Runs the broker in its own process and asks Linux to kill it when the starter dies, however it dies. A second process
# rather than preexec_fn: the starter may have threads.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the starter is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

_LOG4J = """
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as read back from a topic.

    Args:
        partition: Number of the partition.
        offset: Its offset in it.
        key: Key bytes or None.
        value: Value bytes; None is a tombstone.
        timestamp_ms: Milliseconds since 1970 UTC.
        headers: Names and values.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """Which broker would be started and where its program is."""

    kind: BrokerKind
    version: str
    command: tuple[str, ...] = ()
    bootstrap: str = ""

    def __str__(self) -> str:
        names = {
            "external": f"{self.bootstrap} (from {BOOTSTRAP_VARIABLE})",
            "kafka": "Apache Kafka",
            "noida": "noida-db",
        }
        return f"{names[self.kind]} {self.version}".strip()


class Broker:
    """A running broker and the few things that tests do with one. Made by `start_broker`.

    Args:
        plan: What runs.
        bootstrap: Its address, "127.0.0.1:9092".
        start: Starts its process; None when the process belongs to somebody else.
    """

    def __init__(self, plan: BrokerPlan, bootstrap: str, start: Callable[[], subprocess.Popen[bytes]] | None) -> None:
        self.bootstrap = bootstrap
        self.kind: BrokerKind = plan.kind
        self.version = plan.version
        self._start = start
        self._process = start() if start else None
        self._producer: Producer | None = None
        # Kept: an AdminClient that is dropped cancels its calls.
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Broker({self.kind} {self.version} at {self.bootstrap})"

    @property
    def pid(self) -> int | None:
        """Process id; None when it was not started here."""
        return self._process.pid if self._process else None

    @property
    def admin(self) -> AdminClient:
        """An admin client, for what has no method here."""
        return self._admin

    def stop(self) -> None:
        """End the broker in good order (SIGTERM) and wait for it; does nothing if it runs elsewhere."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker as a power cut would (SIGKILL). What the operating system's page cache holds survives.

        Raises:
            ConfigError: It was not started here.
        """
        if self._start is None:
            raise ConfigError(f"{self!r} runs elsewhere: it can't be killed from here")
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on the same port and data, after `stop` or `kill`."""
        if self._start is None:
            raise ConfigError(f"{self!r} runs elsewhere: it can't be started from here")
        self.stop()
        self._process = self._start()

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process, self._producer = self._process, None, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(with_signal)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def plan(self) -> BrokerPlan:
        """What runs; as a text, its name and version."""
        return BrokerPlan(self.kind, self.version, (), self.bootstrap)

    def create_topic(
        self, name: str | None = None, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """Create a topic and wait until it can be used.

        Args:
            name: Its name; None makes up one that nobody else has.
            partitions: How many partitions.
            config: Topic settings ("retention.ms", "cleanup.policy", ...).

        Returns:
            The name.
        """
        name = name or f"t-{uuid4().hex[:12]}"
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self._admin.create_topics([topic])[name].result(timeout=30)
        _wait_until(lambda: len(self._partitions(name)) == partitions, f"topic {name} to appear")
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until it is gone."""
        self._admin.delete_topics([name])[name].result(timeout=30)
        _wait_until(lambda: not self._partitions(name), f"topic {name} to vanish")

    def add_partitions(self, name: str, total: int) -> None:
        """Let a topic have `total` partitions, and wait until they can be used."""
        self._admin.create_partitions([NewPartitions(name, total)])[name].result(timeout=30)
        self._producer = None  # it would go on with the partitions it knows
        _wait_until(lambda: len(self._partitions(name)) == total, f"{total} partitions of {name}")

    def delete_records(self, name: str, partition: int, before_offset: int) -> None:
        """Delete the records of a partition below an offset, as retention does."""
        where = TopicPartition(name, partition, before_offset)
        for future in self._admin.delete_records([where]).values():
            future.result(timeout=30)

    def end_offsets(self, name: str) -> dict[int, int]:
        """The offset after the last record, by partition."""
        wanted = {TopicPartition(name, p): OffsetSpec.latest() for p in self._partitions(name)}  # type: ignore[no-untyped-call]
        futures = self._admin.list_offsets(wanted)
        return {where.partition: future.result(timeout=30).offset for where, future in futures.items()}

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        partition: int | None = None,
        timestamps_ms: Sequence[int] | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
    ) -> int:
        """Write records and wait until the broker has them.

        Args:
            topic: Where to.
            values: Payloads; None is a tombstone.
            keys: One key a value.
            partition: All to this partition; None: by key, or spread if there are no keys.
            timestamps_ms: One timestamp a value; None: now. Slower, as are headers.
            headers: The same for every record.

        Returns:
            How many records were written.

        Raises:
            SourceError: Some were not taken.
        """
        if self._producer is None:
            self._producer = Producer(_PRODUCER_SETTINGS | {"bootstrap.servers": self.bootstrap})
        messages: list[dict[str, Any]] = [{"value": value} for value in values]
        for name, column in (("key", keys), ("timestamp", timestamps_ms)):
            if column is not None:
                for message, cell in zip(messages, column, strict=True):
                    message[name] = cell
        where = -1 if partition is None else partition
        if timestamps_ms is None and headers is None:
            return _produce_batch(self._producer, topic, messages, where)
        return _produce_singly(self._producer, topic, messages, partition=where, headers=list(headers or ()))

    def read(self, topic: str, *, committed: bool = True, timeout_s: float = 30.0) -> list[Record]:
        """All records of a topic from its beginning to its present end, by partition and offset.

        Args:
            topic: What to read.
            committed: Hide records of open and aborted transactions.
            timeout_s: Longest wait.
        """
        consumer = Consumer(
            _CONSUMER_SETTINGS
            | {
                "bootstrap.servers": self.bootstrap,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
            }
        )
        try:
            return _read_to_end(consumer, topic, self._partitions(topic), timeout_s)
        finally:
            consumer.close()

    def _partitions(self, topic: str) -> list[int]:
        found = self._admin.list_topics(timeout=10).topics.get(topic)
        return [] if found is None or found.error is not None else sorted(found.partitions)


_PRODUCER_SETTINGS: dict[str, Any] = {
    "log_level": 2,
    "delivery.report.only.error": True,
    "topic.metadata.propagation.max.ms": 2000,
    "linger.ms": 5,
    "batch.size": 1 << 20,
    "message.max.bytes": 10_000_000,
    "queue.buffering.max.messages": 0,
    "queue.buffering.max.kbytes": 2_000_000,
}
_CONSUMER_SETTINGS: dict[str, Any] = {
    "group.id": "lakeward-test-reader",  # demanded by the client, never joined
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "fetch.queue.backoff.ms": 10,
    "auto.offset.reset": "earliest",
    "receive.message.max.bytes": 1_000_000_000,  # noida-db answers with everything up to the end at once
}


def _produce_batch(producer: Producer, topic: str, messages: list[dict[str, Any]], partition: int) -> int:
    failures: list[object] = []
    queued = producer.produce_batch(topic, messages, partition, callback=lambda error, _: failures.append(error))
    failures += [message["_error"] for message in messages if "_error" in message]
    return _flushed(producer, topic, queued, failures)


def _produce_singly(producer: Producer, topic: str, messages: list[dict[str, Any]], **where: Any) -> int:
    failures: list[object] = []
    for message in messages:
        producer.produce(topic, on_delivery=lambda error, _: failures.append(error), **message, **where)
        producer.poll(0)
    return _flushed(producer, topic, len(messages), failures)


def _flushed(producer: Producer, topic: str, queued: int, failures: list[object]) -> int:
    left = producer.flush(60)
    if failures or left:
        reason = failures[0] if failures else "not delivered in 60 s"
        raise SourceError(f"{len(failures) + left} records not written to {topic}: {reason}")
    return queued


def _read_to_end(consumer: Consumer, topic: str, partitions: Sequence[int], timeout_s: float) -> list[Record]:
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    unfinished, records = set(partitions), []
    deadline = time.monotonic() + timeout_s
    while unfinished:
        for message in consumer.consume(1000, timeout=0.1):
            error = message.error()
            if error is None:
                records.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(message.partition())
            else:
                raise SourceError(f"reading {topic}: {error}")
        if time.monotonic() > deadline:
            raise SourceError(f"the end of {topic} partitions {sorted(unfinished)} was not reached in {timeout_s} s")
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _record(message: Any) -> Record:
    return Record(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        message.timestamp()[1],
        tuple(message.headers() or ()),
    )


def plan_broker(kind: BrokerKind | None = None, *, fetch: bool = True) -> BrokerPlan:
    """Find out which broker `start_broker` would start.

    Args:
        kind: Only this one; None: the first of external, Apache Kafka, noida-db that is there.
        fetch: Whether Maven may fetch Apache Kafka's jars if they are missing.

    Returns:
        The plan.

    Raises:
        ConfigError: There is none, with what was tried.
    """
    finders: dict[BrokerKind, Callable[[], BrokerPlan | str]] = {
        "external": _find_external,
        "kafka": lambda: _find_apache_kafka(fetch),
        "noida": _find_noida,
    }
    wanted = kind or os.environ.get(KIND_VARIABLE, "")
    if wanted and wanted not in finders:
        raise ConfigError(f"{KIND_VARIABLE}={wanted!r} is none of {', '.join(finders)}")
    reasons = []
    for one in [one for one in finders if wanted in ("", one)]:
        found = finders[one]()
        if isinstance(found, BrokerPlan):
            return found
        reasons.append(f"{one}: {found}")
    raise ConfigError(
        f"no Kafka broker to test against ({'; '.join(reasons)})",
        hint=f"set {BOOTSTRAP_VARIABLE}, install Java 17 and Maven, or `pip install noida-db`",
    )


def start_broker(directory: Path | str, kind: BrokerKind | None = None, port: int | None = None) -> Broker:
    """Start a broker on loopback and wait until it answers.

    Args:
        directory: Where its data and its log go; started again over the same directory it has the same data.
        kind: "kafka" or "noida" for that one; None: see the module's text.
        port: Its port; None: a free one.

    Returns:
        The broker, also a context manager that stops it. It dies with this process.

    Raises:
        ConfigError: There is no broker to start.
        SourceError: It did not come up; the text has the end of its log.
    """
    expect(directory, (str, Path), "start_broker: directory", "give a folder for its data: start_broker(tmp_path)")
    plan = plan_broker(kind)
    if plan.kind == "external":
        return Broker(plan, plan.bootstrap, None)
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    launch = (
        _apache_kafka_launch(plan, directory, port) if plan.kind == "kafka" else _noida_launch(plan, directory, port)
    )
    return Broker(plan, f"127.0.0.1:{port}", lambda: _start_process(launch, directory / "broker.log", port))


def embedded_broker(directory: Path | str, port: int | None = None) -> Broker:
    """A small broker without Java for demos: the `noida-db` binary. Keeps its data in memory and in one file.

    Args:
        directory: Where its data goes.
        port: Its port; None: a free one.

    Returns:
        The broker, also a context manager that stops it.
    """
    return start_broker(directory, "noida", port)


@contextmanager
def shared_broker(directory: Path | str) -> Iterator[Broker]:
    """One broker for several processes (the workers of pytest-xdist) that name the same directory.

    The first to come starts it; it stops it once all others are through (or dead: they hold a file lock).
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    address = directory / "broker.json"
    with (directory / "users.lock").open("a") as users:
        with _locked(directory / "start.lock"):
            owned = None if address.exists() else start_broker(directory / f"data-{uuid4().hex[:8]}")
            if owned is not None:
                address.write_text(json.dumps({"plan": asdict(owned.plan), "bootstrap": owned.bootstrap}))
            stored = json.loads(address.read_text())
            fcntl.flock(users, fcntl.LOCK_SH)
        if owned is None:
            yield Broker(BrokerPlan(**stored["plan"]), stored["bootstrap"], None)
            return
        try:
            yield owned
        finally:
            with _locked(directory / "start.lock"):
                fcntl.flock(users, fcntl.LOCK_EX)  # waits until nobody else uses it
                address.rename(directory / "broker-ended.json")
                owned.stop()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_external() -> BrokerPlan | str:
    bootstrap = os.environ.get(BOOTSTRAP_VARIABLE, "")
    return BrokerPlan("external", "", (), bootstrap) if bootstrap else f"{BOOTSTRAP_VARIABLE} is not set"


def _find_noida() -> BrokerPlan | str:
    if find_spec("noida_db") is None:
        return "the package noida-db is not installed"
    binary = Path(str(package_files("noida_db"))) / "noida-db"
    return BrokerPlan("noida", package_version("noida-db"), (str(binary),))


def _find_apache_kafka(fetch: bool) -> BrokerPlan | str:
    java = shutil.which("java")
    if java is None:
        return "no java on the path"
    jars = _kafka_jars(fetch)
    if isinstance(jars, str):
        return jars
    found = _java_version(java)
    if found < JAVA_VERSION_MIN:
        return f"java is version {found}, {JAVA_VERSION_MIN} is needed"
    name = next(jars.glob("kafka_2.13-*.jar")).name
    return BrokerPlan("kafka", name.removeprefix("kafka_2.13-").removesuffix(".jar"), (java, str(jars / "*")))


def _java_version(java: str) -> int:
    release = Path(java).resolve().parents[1] / "release"  # present in every JDK since 9; saves starting a JVM
    text = (
        release.read_text()
        if release.exists()
        else subprocess.run([java, "-version"], capture_output=True).stderr.decode()
    )
    match = re.search(r'(?:JAVA_VERSION=|version )"(\d+)', text)
    return int(match[1]) if match else 0


def _kafka_jars(fetch: bool) -> Path | str:
    """The directory with Apache Kafka's jars, fetched by Maven the first time; or why there is none."""
    jars = _POM_DIRECTORY / "libs"
    if not (_POM_DIRECTORY / "pom.xml").exists():
        return f"no {_POM_DIRECTORY}/pom.xml"
    if _holds_kafka(jars):
        return jars
    maven = shutil.which("mvn")
    if maven is None or not fetch:
        return "its jars are not there" + (
            " and there is no mvn" if maven is None else " yet: Maven will be asked for them"
        )
    with _locked(_POM_DIRECTORY / ".fetch.tmp"):
        return jars if _holds_kafka(jars) else _fetch_jars(maven, jars)


def _holds_kafka(jars: Path) -> bool:
    return any(jars.glob("kafka_2.13-*.jar"))


def _fetch_jars(maven: str, jars: Path) -> Path | str:
    with tempfile.TemporaryDirectory(dir=_POM_DIRECTORY, prefix="libs-", suffix=".tmp") as fresh:
        command = [maven, "-q", "-B", "-f", str(_POM_DIRECTORY / "pom.xml"), "dependency:copy-dependencies"]
        try:
            done = subprocess.run([*command, f"-DoutputDirectory={fresh}/libs"], capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            return "Maven did not fetch its jars within 300 s"
        if done.returncode:
            return f"Maven could not fetch its jars: {done.stdout.decode(errors='replace').strip()[:300]}"
        shutil.rmtree(jars, ignore_errors=True)
        Path(fresh, "libs").rename(jars)
    return jars


def _noida_launch(plan: BrokerPlan, directory: Path, port: int) -> list[str]:
    binary = Path(plan.command[0])
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    data = directory / "data"
    return [str(binary), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(data)]


def _apache_kafka_launch(plan: BrokerPlan, directory: Path, port: int) -> list[str]:
    controller_port = free_port()
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": directory / "data",
        "auto.create.topics.enable": "false",
        "num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "log.retention.ms": -1,  # tests write records of any age
        "log.retention.check.interval.ms": 1000,
        "log.cleaner.backoff.ms": 500,
        "log.initial.task.delay.ms": 500,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
        "message.max.bytes": 10_000_000,
        # A killed broker can't register again before its old session ends.
        "broker.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 3000,
    }
    properties = directory / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    (directory / "log4j2.properties").write_text(_LOG4J)
    java = _java(plan, directory)
    if not (directory / "data" / "meta.properties").exists():
        _format_storage(java, properties)
    return [*java, "kafka.Kafka", str(properties)]


def _java(plan: BrokerPlan, directory: Path) -> list[str]:
    quick = ["-Xmx512m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
    log = f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}"
    return [plan.command[0], *quick, log, "-Djava.net.preferIPv4Stack=true", "-cp", plan.command[1]]


def _format_storage(java: Sequence[str], properties: Path) -> None:
    cluster = "lakeward-test-cluster0"  # any 22 characters of base64 make a cluster id
    command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT_S)
    if done.returncode:
        raise SourceError(f"Kafka's storage could not be formatted: {done.stderr.decode(errors='replace')[-2000:]}")


def _start_process(command: Sequence[str], log: Path, port: int) -> subprocess.Popen[bytes]:
    wrapped = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *command]
    with log.open("ab") as out:
        process = _spawn(wrapped, out, log.parent)
    try:
        _wait_until(lambda: _answers(process, log, port), f"the broker at 127.0.0.1:{port}", START_TIMEOUT_S)
    except LakewardError:
        process.kill()
        process.wait()
        raise
    return process


def _spawn(command: Sequence[str], out: IO[bytes], directory: Path) -> subprocess.Popen[bytes]:
    # A session of its own, so that Ctrl-C reaches the tests first and they end the broker.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=directory, start_new_session=True
    )


def _answers(process: subprocess.Popen[bytes], log: Path, port: int) -> bool:
    if process.poll() is not None:
        tail = log.read_bytes()[-2000:].decode(errors="replace")
        raise SourceError(
            f"the broker on port {port} ended with exit code {process.returncode}; its log {log} ends:\n{tail}",
            hint="if the port is taken, give another one, or none: then a free one is found",
        )
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            return False
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False


def _wait_until(ready: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise SourceError(f"waited {timeout_s:.0f} s for {what}")
        SystemClock().sleep_ms(20)
