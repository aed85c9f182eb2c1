"""The hosts file: what it says, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.processes.hosts import Hosts, read_hosts
from lakeward.engine.processes.launcher import Place

WORKERS = '[[workers]]\ncommand = ["run"]\n[[workers]]\ncommand = ["ssh", "node2", "run"]\n'


def hosts(tmp_path: Path, text: str) -> Hosts:
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    return read_hosts(str(file))


def test_all_is_on_loopback_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    found = hosts(tmp_path, WORKERS)
    assert [worker.command for worker in found.workers] == [("run",), ("ssh", "node2", "run")]
    assert {worker.place for worker in found.workers} | {found.coordinator} == {
        Place("tcp:127.0.0.1:0", "tcp:127.0.0.1:0")
    }


def test_a_process_may_listen_at_all_addresses_and_say_at_which_it_is_called(tmp_path: Path) -> None:
    text = 'trusted_network = true\n[coordinator]\nlisten = "0.0.0.0:7000"\naddress = "node1:7000"\n' + WORKERS
    assert hosts(tmp_path, text).coordinator == Place("tcp:0.0.0.0:7000", "tcp:node1:7000")


@pytest.mark.parametrize("listen", ["0.0.0.0:7000", "[::]:7000"])
def test_all_addresses_of_a_host_are_not_what_others_are_told_to_call(listen: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which stands for all addresses of a host"):
        hosts(tmp_path, f'trusted_network = true\n[coordinator]\nlisten = "{listen}"\n' + WORKERS)


@pytest.mark.parametrize("listen", ["10.0.0.1:7000", "node1:7000", "[fe80::1]:7000"])
def test_no_other_address_than_loopback_is_taken_without_a_word_for_it(listen: str, tmp_path: Path) -> None:
    text = f'[coordinator]\nlisten = "{listen}"\n' + WORKERS
    with pytest.raises(ConfigError, match=r"can be reached from other hosts.*not encrypted") as refused:
        hosts(tmp_path, text)
    assert "trusted_network = true" in refused.value.hint
    assert hosts(tmp_path, "trusted_network = true\n" + text).coordinator.listen == f"tcp:{listen}"


@pytest.mark.parametrize("listen", ["localhost:0", "127.0.0.2:7000", "[::1]:0"])
def test_loopback_has_several_names(listen: str, tmp_path: Path) -> None:
    assert hosts(tmp_path, f'[coordinator]\nlisten = "{listen}"\n' + WORKERS).coordinator.listen == f"tcp:{listen}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "needs two workers or more, there are 0"),
        ('[[workers]]\ncommand = ["run"]', "needs two workers or more, there are 1"),
        ("[[workers]]", "a worker has no command"),
        ("[[workers]]\ncommand = [1]", "a worker has no command"),
        ('[[workers]]\ncomand = ["run"]', "'comand', which means nothing"),
        ('[[workers]]\ncommand = "run"', "'command' in .* is 'run'"),
        ("workers = [1]", "is no table"),
        ("trusted_network = 1", "'trusted_network' in the file is 1"),
        ('coordinator.listen = "node1"\n' + WORKERS, "'node1' is no address"),
        ('coordinator.listen = "127.0.0.1:70000"\n' + WORKERS, "is no address"),
        ("what is this", "cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_file(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"hosts.toml.*{problem}"):
        hosts(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        read_hosts(str(tmp_path / "nowhere.toml"))
