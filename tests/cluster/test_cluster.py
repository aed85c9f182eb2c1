"""Clusters in processes of their own: jobs are run, watched, moved and killed, and answers stay exact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import lakeward as lw
from lakeward.cluster import Client
from lakeward.engine.core.errors import ConfigError, LakewardError

pytestmark = pytest.mark.kill


def answer(cluster: Any, name: str) -> tuple[pa.Table, pa.Table]:
    tables = [
        ds.dataset(str(cluster.jobs / f"{name}-{kind}"), format="parquet").to_table() for kind in ("bids", "windows")
    ]
    ordered = [table.sort_by([(column, "ascending") for column in table.column_names]) for table in tables]
    return ordered[0], ordered[1]


def lakeward(cluster: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lakeward", *arguments]
    outside = os.environ | {"LAKEWARD_CLUSTER": str(cluster.root)}
    return subprocess.run(command, capture_output=True, text=True, env=outside, check=False, timeout=60)


def checkpoint(client: Client, job: str) -> int:
    return int(client.show(job).status.get("checkpoint") or 0)


def check_exact(cluster: Any, client: Client, job: str) -> None:
    """A bounded job has ended with what it gives in one go."""
    assert client.wait(job).state == "FINISHED"
    straight = client.submit("shop:straight")
    assert client.wait(straight.id).state == "FINISHED"
    assert answer(cluster, "bounded") == answer(cluster, "straight")


def test_jobs_survive_every_death_with_the_exact_answer(cluster: Any) -> None:
    """Of the job's process, of the coordinator, of the supervisor, and of everything at once."""
    client = cluster.start()
    job = client.submit("shop:bounded", parallelism=2).id
    cluster.wait_for("checkpoint", lambda: checkpoint(client, job) > 0)

    (worker, *_) = [pid for pid in cluster.descendants(cluster.coordinator) if pid != cluster.coordinator]
    os.kill(worker, signal.SIGKILL)
    cluster.wait_for("restart", lambda: client.show(job).restarts == 1)

    dead = cluster.coordinator
    family = cluster.descendants(dead)
    os.kill(dead, signal.SIGKILL)
    cluster.wait_for("other coordinator", lambda: cluster.coordinator != dead)
    client = cluster.answers()
    assert not [pid for pid in family if Path(f"/proc/{pid}/stat").exists() and not _is_zombie(pid)]
    cluster.wait_for("job", lambda: cluster.state(job) in ("RUNNING", "FINISHED"))

    assert cluster.process is not None
    orphan = cluster.coordinator
    cluster.process.kill()
    cluster.process.wait()
    cluster.wait_for("end of the orphan", lambda: not Path(f"/proc/{orphan}/stat").exists() or _is_zombie(orphan))
    client = cluster.start()

    cluster.kill_all()
    client = cluster.start()
    check_exact(cluster, client, job)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_commands_show_and_do_what_they_say(cluster: Any, tmp_path: Path) -> None:
    cluster.start()
    job = json.loads(lakeward(cluster, "submit", "shop:endless", "--name", "shop", "--json").stdout)
    assert (job["name"], job["state"]) == ("shop", "RUNNING")
    client = cluster.answers()
    cluster.wait_for("status", lambda: checkpoint(client, "shop") > 0)
    listed = lakeward(cluster, "list")
    assert "shop" in listed.stdout
    assert "rows/s" in listed.stdout
    saved = lakeward(cluster, "savepoint", "shop", "monday")
    assert f"saved in {cluster.root}/savepoints/monday" in saved.stdout, saved.stderr
    assert lw.read_state(cluster.root / "savepoints" / "monday", "counts").num_rows > 0
    again = lakeward(cluster, "savepoint", "shop", "monday")
    assert again.returncode == 1
    assert "already" in again.stderr
    rescaled = lakeward(cluster, "rescale", "shop", "3")
    assert "RUNNING with parallelism 3" in rescaled.stdout, rescaled.stderr
    assert "going on from checkpoint" in lakeward(cluster, "logs", "shop").stdout
    shown = json.loads(lakeward(cluster, "show", "shop", "--json").stdout)
    assert (shown["parallelism"], shown["savepoints"][0]["state"]) == (3, "DONE")
    outside = lakeward(cluster, "stop", "shop", "--savepoint", str(tmp_path / "elsewhere"))
    assert "outside of the allowed folders" in outside.stderr
    stopped = lakeward(cluster, "stop", "shop", "--savepoint", "end")
    assert "STOPPED; savepoint in" in stopped.stdout, stopped.stderr
    begun = lakeward(cluster, "submit", "shop:endless", "--from", str(cluster.root / "savepoints" / "end"))
    assert "is RUNNING" in begun.stdout, begun.stderr
    newest = json.loads(lakeward(cluster, "list", "--json").stdout)[-1]["id"]
    cluster.wait_for("restored job", lambda: checkpoint(client, newest) > shown["status"].get("checkpoint", 0))
    assert "CANCELED" in lakeward(cluster, "cancel", newest).stdout
    gone = lakeward(cluster, "show", "shpo")
    assert (gone.returncode, "there is no job 'shpo'" in gone.stderr) == (1, True)


def test_a_job_that_fails_for_good_says_why_and_one_whose_process_dies_shows_its_last_words(cluster: Any) -> None:
    client = cluster.start()
    broken = client.wait(client.submit("shop:broken").id)
    assert broken.state == "FAILED"
    for said in ("no such shop", "shop.py", "'bad'"):
        assert said in (broken.error or "")
    assert "it has failed:" in lakeward(cluster, "show", broken.id).stdout
    crashing = client.submit("shop:crashing").id
    cluster.wait_for("two deaths", lambda: client.show(crashing).restarts >= 2)
    assert client.cancel(crashing).state == "CANCELED"


def test_ten_jobs_share_the_slots_of_a_cluster(cluster_of: Any) -> None:
    with cluster_of(6) as cluster:
        client = cluster.start()
        jobs = [client.submit("shop:waiting", name=f"job-{number}").id for number in range(10)]
        states = [client.show(job).state for job in jobs]
        assert (states.count("RUNNING"), states.count("WAITING")) == (6, 4)
        assert client.cluster()["slots_free"] == 0
        for job in jobs[:4]:
            client.cancel(job)
        cluster.wait_for("the rest", lambda: [client.show(job).state for job in jobs[4:]] == ["RUNNING"] * 6)


def test_a_planted_secret_is_in_no_output_and_jobs_see_only_variables_they_are_given(
    cluster_of: Any, tmp_path: Path
) -> None:
    with cluster_of(2, "--pass-env", "SHOP_PASSWORD") as cluster:
        client = cluster.start()
        failed = client.wait(client.submit("shop:shows_secrets").id)
        assert failed.state == "FAILED"
        token = (cluster.root / "token").read_text()
        printed = lakeward(cluster, "logs", failed.id).stdout + lakeward(cluster, "show", failed.id).stdout
        printed += lakeward(cluster, "list", "--json").stdout
        assert "the secret is *** and None" in printed
        places = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "token"]
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in cluster.descendants(os.getpid())]
        for text in (printed.encode(), *(path.read_bytes() for path in places), *commands):
            assert cluster.canary.encode() not in text
            assert token.encode() not in text


def test_a_job_runs_in_the_virtual_environment_that_it_names(cluster: Any) -> None:
    made = cluster.jobs / "env"
    venv.create(made, symlinks=True, with_pip=False)
    (packages,) = made.glob("lib/python*/site-packages")
    outer = sysconfig.get_paths()["purelib"]
    (packages / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")
    client = cluster.start()
    job = client.submit("shop:prefix", venv=str(made)).id
    cluster.wait_for("word", lambda: f"runs in {made}" in "".join(client.logs(job)))
    with pytest.raises(ConfigError, match="outside"):
        client.submit("shop:prefix", venv=sys.prefix)


def test_only_one_cluster_works_in_a_directory_and_nothing_listens_but_on_loopback(cluster: Any) -> None:
    client = cluster.start()
    second = lakeward(cluster, "cluster", "start", "--dir", str(cluster.root))
    assert second.returncode == 1
    assert "another coordinator" in second.stderr
    client.submit("shop:waiting")
    inodes = {
        os.readlink(entry).removeprefix("socket:[").removesuffix("]")
        for pid in cluster.descendants(cluster.coordinator)
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if entry.is_symlink() and os.readlink(entry).startswith("socket:")
    }
    listening = []
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        listening += [line.split()[1] for line in lines if line.split()[3] == "0A" and line.split()[9] in inodes]
    assert listening
    assert {address.partition(":")[0] for address in listening} == {"0100007F"}


def test_a_coordinator_that_cannot_store_what_it_is_told_starts_again_from_what_is_stored(cluster: Any) -> None:
    client = cluster.start()
    job = client.submit("shop:waiting").id
    dead = cluster.coordinator
    records = cluster.root / "records"
    records.rename(cluster.root / "away")
    records.write_text("a file where the folder was")
    with pytest.raises(LakewardError):
        client.submit("shop:waiting", name="second")
    cluster.wait_for("third try", lambda: cluster.log.read_text().count("it is started again in") >= 2)
    records.unlink()
    (cluster.root / "away").rename(records)
    cluster.wait_for("other coordinator", lambda: cluster.coordinator != dead)
    client = cluster.answers()
    assert [info.id for info in client.list()] == [job]
    cluster.wait_for("job", lambda: client.show(job).status.get("state") == "RUNNING")


def test_a_cluster_that_is_asked_to_end_leaves_nothing_behind(cluster: Any) -> None:
    client = cluster.start()
    client.submit("shop:waiting", parallelism=2)
    family = cluster.descendants(cluster.process.pid)
    assert len(family) >= 3
    cluster.end()
    assert cluster.process.returncode == 0
    cluster.wait_for("end", lambda: all(_is_zombie(pid) for pid in family))


def test_a_stop_whose_answer_nobody_heard_is_not_asked_again_when_its_savepoint_is_there(cluster: Any) -> None:
    """The coordinator dies between the job's last words and the record of them."""
    client = cluster.start()
    job = client.submit("shop:endless").id
    cluster.wait_for("checkpoint", lambda: checkpoint(client, job) > 0)
    client.stop(job, savepoint="end")
    cluster.end()
    record = cluster.root / "records" / f"{job}.json"
    before = json.loads(record.read_bytes())
    before["record"]["state"] = "STOPPING"
    before["record"]["savepoints"][0] |= {"state": "PENDING", "checkpoint": None}
    record.write_text(json.dumps(before))
    client = cluster.start()
    info = cluster.wait_for("end", lambda: (found := client.show(job)).is_over and found)
    assert (info.state, info.savepoints[0]["state"]) == ("STOPPED", "DONE")
