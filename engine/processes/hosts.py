"""On which hosts a job runs: the file of `lakeward run --hosts`."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.processes.connection import is_wildcard
from lakeward.engine.processes.launcher import Place

_LOOPBACK = "127.0.0.1:0"
_SEE = "docs/processes-hosts.md says how to write it"


@dataclass(frozen=True, slots=True)
class HostWorker:
    """A worker and the command that starts it.

    Args:
        command: The program and its arguments; `{job}` in them stands for the job's file or function, `{worker}` for
            the worker's number.
        place: Where it can be called.
    """

    command: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where the processes of a job are.

    Args:
        coordinator: Where the coordinator, the process of `lakeward run`, can be called.
        workers: The workers.
        trusted_network: Whether addresses may be others than those of loopback. Processes prove to each other that
            they belong to the job, but what they send is not encrypted.

    Raises:
        ConfigError: There are fewer than two workers, or an address cannot be used.
    """

    coordinator: Place
    workers: tuple[HostWorker, ...]
    trusted_network: bool = False

    def __post_init__(self) -> None:
        if len(self.workers) < 2:
            raise ConfigError(
                f"a job on several hosts needs two workers or more, there are {len(self.workers)}",
                hint='write [[workers]] and below it command = ["ssh", "node2", ...] for each',
            )
        for place in (self.coordinator, *(worker.place for worker in self.workers)):
            self._check(place)

    def _check(self, place: Place) -> None:
        host = _host_of(place.advertise)
        if is_wildcard(host):
            raise ConfigError(
                f"no process can call another at {place.advertise}, which stands for all addresses of a host",
                hint='add the address that the others call: address = "node1:7000"',
            )
        for address in (place.listen, place.advertise):
            if not self.trusted_network and not _is_loopback(_host_of(address)):
                raise ConfigError(
                    f"{address} can be reached from other hosts, and what the job's processes send is not encrypted",
                    hint="write trusted_network = true if nobody else can listen there, as in a private network or VPN",
                )


def read_hosts(path: str) -> Hosts:
    r"""Read the file that says on which hosts a job runs.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
    ...     print('[[workers]]\ncommand = ["lakeward", "worker", "--job", "{job}"]\n' * 2, file=file, flush=True)
    ...     hosts = read_hosts(file.name)
    >>> len(hosts.workers), hosts.workers[0].place.listen, hosts.coordinator.listen
    (2, 'tcp:127.0.0.1:0', 'tcp:127.0.0.1:0')

    Raises:
        ConfigError: It cannot be read, or says what cannot be.
    """
    try:
        said = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint=_SEE) from error
    try:
        return _hosts(said)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error


def _hosts(said: Mapping[str, Any]) -> Hosts:
    _check_names("the file", said, {"coordinator": dict, "workers": list, "trusted_network": bool})
    coordinator = said.get("coordinator", {})
    _check_names("[coordinator]", coordinator, {"listen": str, "address": str})
    workers = tuple(_worker(one) for one in said.get("workers", ()))
    return Hosts(_place(coordinator), workers, said.get("trusted_network", False))


def _worker(said: Any) -> HostWorker:
    _check_names("[[workers]]", said, {"command": list, "listen": str, "address": str})
    command = said.get("command", [])
    if not command or not all(isinstance(part, str) for part in command):
        raise ConfigError(
            "a worker has no command", hint='write command = ["ssh", "node2", "lakeward", "worker", "--job", "{job}"]'
        )
    return HostWorker(tuple(command), _place(said))


def _place(said: Mapping[str, Any]) -> Place:
    listen = said.get("listen", _LOOPBACK)
    return Place(f"tcp:{listen}", f"tcp:{said.get('address', listen)}")


def _check_names(where: str, said: Any, known: Mapping[str, type]) -> None:
    if not isinstance(said, dict):
        raise ConfigError(f"{where} is no table", hint=_SEE)
    for name, value in said.items():
        if name not in known:
            raise ConfigError(f"{where} has '{name}', which means nothing", hint=did_you_mean(name, known))
        if not isinstance(value, known[name]):
            raise ConfigError(f"'{name}' in {where} is {value!r}", hint=_SEE)


def _host_of(address: str) -> str:
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"'{address.removeprefix('tcp:')}' is no address", hint='write "host:port"; port 0 is any')
    return host.strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
