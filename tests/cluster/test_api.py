"""Who may ask a cluster what: every route without the token, from elsewhere, too much, too slowly, and nonsense."""

from __future__ import annotations

import http.client
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings

from lakeward.cluster import serve
from lakeward.cluster.api import BODY_BYTES_MAX, ROUTES, make_app, openapi
from lakeward.cluster.coordinator import ClusterOptions, Coordinator
from lakeward.cluster.files import ClusterFiles
from lakeward.engine.core.clock import SystemClock

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X" * 40)
PATHS = sorted(
    {spec.path for spec in ROUTES} | {"/", "/v1", "/docs", "/openapi.json", "/v1/jobs/{job}/nothing", "/%2e%2e/"}
)
SOON_S = 2.0
GROWTH_KB = 50 * 1024


class Server:
    """A cluster without jobs, in this process."""

    def __init__(self, folder: Path) -> None:
        self.files = ClusterFiles.open(folder / "cluster")
        self.token = self.files.token()
        (folder / "jobs").mkdir()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        options = ClusterOptions(slots=2, allowed=(folder / "jobs",))
        self.coordinator = Coordinator(self.files, options, SystemClock(), dict(os.environ), self.token)
        self.coordinator.start()
        hosts = frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})
        app = make_app(self.coordinator, self.token, hosts)
        self.server = uvicorn.Server(serve.configuration(app))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.coordinator.close()
        self.listener.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        token: bool = True,
    ) -> tuple[int, bytes]:
        given = {"Authorization": f"Bearer {self.token}"} if token else {}
        given |= {"Content-Type": "application/json"} if body is not None else {}
        given |= headers or {}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.putrequest(method, path, skip_host="Host" in given, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read()

    def say(self, data: bytes, timeout_s: float = 30) -> bytes:
        """Send bytes as they are; returns what comes back until the other side hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            answer = b""
            try:
                connection.sendall(data)
                while part := connection.recv(65536):
                    answer += part
            except (ConnectionError, BrokenPipeError):
                pass
            return answer

    def alive(self) -> bool:
        return self.ask("GET", "/v1/cluster")[0] == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("api"))
    yield made
    made.close()


def real(path: str) -> str:
    return path.replace("{job}", "j-1")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
def test_nobody_gets_an_answer_without_the_token(server: Server, method: str, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer " + "0" * 64},
        {"Authorization": f"Basic {server.token}"},
        {"Authorization": ""},
    ):
        status, content = server.ask(method, real(path), b"{}" if method == "POST" else None, headers, token=False)
        assert status == 401, headers
        assert method == "HEAD" or b"token" in content


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
def test_with_the_token_only_the_methods_of_a_route_are_answered(server: Server, method: str, path: str) -> None:
    allowed = {spec.method for spec in ROUTES if spec.path == path}
    status, _ = server.ask(method, real(path), b"{}" if method == "POST" else None)
    if not allowed:
        assert status == 404
    elif method not in allowed:
        assert status == 405
    else:
        assert status in (200, 400, 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": "localhost.evil.example"},
        {"Host": ""},
        {"Host": "[::1]"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Referer": "http://evil.example/"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("spec", ROUTES, ids=lambda spec: f"{spec.method} {spec.path}")
def test_who_asks_from_a_browser_or_by_another_name_is_refused_even_with_the_token(
    server: Server, spec: Any, headers: dict[str, str]
) -> None:
    assert server.ask(spec.method, real(spec.path), b"{}" if spec.body else None, headers)[0] == 403


def test_a_token_in_the_address_or_in_a_cookie_is_none(server: Server) -> None:
    assert server.ask("GET", f"/v1/jobs?token={server.token}&access_token={server.token}", token=False)[0] == 401
    assert server.ask("GET", "/v1/jobs", headers={"Cookie": f"token={server.token}"}, token=False)[0] == 401


def test_two_tokens_or_two_hosts_are_refused(server: Server) -> None:
    bearer = f"Authorization: Bearer {server.token}\r\n"
    host = f"Host: 127.0.0.1:{server.port}\r\n"
    assert b" 401 " in server.say(f"GET /v1/jobs HTTP/1.1\r\n{host}{bearer}{bearer}Connection: close\r\n\r\n".encode())
    doubled = server.say(f"GET /v1/jobs HTTP/1.1\r\n{host}Host: evil\r\n{bearer}Connection: close\r\n\r\n".encode())
    assert doubled.split()[1] in (b"400", b"403")


POSTS = [spec for spec in ROUTES if spec.body is not None]
BODIES = {
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "an unknown field": b'{"nonsense": 1}',
    "not a number": b'{"parallelism": NaN}',
    "a huge number": b'{"parallelism": ' + b"9" * 10_000 + b"}",
    "deep": b"[" * 60_000,
    "deep objects": b'{"job":' * 9_000,
    "half a character": b'{"job": "\\ud800", "target": "\\ud800", "parallelism": "\\ud800", "savepoint": "\\ud800"}',
    "no UTF-8": b'{"job": "\xff", "target": "\xff", "parallelism": "\xff", "savepoint": "\xff"}',
    "a NUL": b'{"job": "a\\u0000:b", "target": "\\u0000", "parallelism": 0, "savepoint": "\\u0000"}',
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    "two objects": b"{}{}",
    "wrong types": b'{"job": 1, "target": [], "parallelism": "2", "savepoint": {}}',
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("spec", POSTS, ids=lambda spec: spec.path)
def test_a_body_that_makes_no_sense_is_refused_soon(server: Server, spec: Any, name: str) -> None:
    before = time.monotonic()
    status, content = server.ask("POST", real(spec.path), BODIES[name])
    assert status in (400, 404, 409)
    assert "error" in json.loads(content)
    assert time.monotonic() - before < SOON_S


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
@pytest.mark.parametrize("spec", POSTS, ids=lambda spec: spec.path)
def test_what_a_browser_could_post_by_itself_is_refused(server: Server, spec: Any, kind: str) -> None:
    assert server.ask("POST", real(spec.path), b"{}", {"Content-Type": kind})[0] == 415


@pytest.mark.parametrize("spec", POSTS, ids=lambda spec: spec.path)
def test_a_body_that_is_too_long_is_refused_before_it_is_read(server: Server, spec: Any) -> None:
    head = (
        f"POST {real(spec.path)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {server.token}\r\n"
    )
    head += "Content-Type: application/json\r\n"
    endless = (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert b" 413 " in server.say(
        (head + f"Content-Length: {BODY_BYTES_MAX + 1}\r\n\r\n").encode() + b"x" * (BODY_BYTES_MAX + 1)
    )
    answer = server.say(endless)
    assert not answer or b" 413 " in answer
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH_KB
    assert server.alive()


POST = b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\n"
NONSENSE = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600,
    "a long line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(100_000)) + b"\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "a newline in a header": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "two lengths": b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a chunk of no number": b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "a websocket": b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "an absolute address": b"GET http://evil.example/v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "many requests at once": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000,
    "pickle": BODIES["pickle"],
}


@pytest.mark.parametrize("name", NONSENSE)
def test_bytes_that_are_no_request_get_no_answer_but_a_refusal(server: Server, name: str) -> None:
    before_kb, before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(NONSENSE[name])
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
    assert not answer or answer.split()[1] in (b"400", b"403", b"401", b"431", b"404", b"413", b"414")
    assert b"j-" not in answer
    assert time.monotonic() - before < SOON_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < GROWTH_KB
    assert server.alive()


@pytest.mark.parametrize("said", [b"", b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1"], ids=["nothing", "half a request"])
def test_who_says_nothing_for_long_is_hung_up_on_and_keeps_nobody_waiting(
    server: Server, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "HEADERS_TIMEOUT_S", 0.5)
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(20)]
    for one in slow:
        one.sendall(said)
    assert server.alive()
    for one in slow:
        with one, suppress(ConnectionResetError):
            assert one.recv(100) == b""


def test_a_body_that_comes_too_slowly_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakeward.cluster.api.BODY_TIMEOUT_S", 0.3)
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {server.token}\r\n"
    answer = server.say((head + "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{").encode())
    assert b" 408 " in answer


@pytest.mark.parametrize(
    "job",
    [
        "../../etc/passwd",
        "..%2f..%2ftoken",
        "%2e%2e",
        "%00",
        "j-1%0d%0aX:%20y",
        "a" * 5000,
        "token",
        "{job}",
        "%F0%9F%92%A9",
    ],
)
@pytest.mark.parametrize("path", sorted({spec.path for spec in ROUTES if "{job}" in spec.path}))
def test_a_name_of_no_job_finds_no_file(server: Server, path: str, job: str) -> None:
    for method in ("GET", "POST"):
        status, content = server.ask(method, path.replace("{job}", job), b"{}" if method == "POST" else None)
        assert status in (400, 404, 405)
        assert server.token.encode() not in content


@pytest.mark.parametrize("offset", ["x", "1e9", "0x10", "9" * 30, "٣", "-", "", "1;2", "NaN"])
def test_an_offset_that_is_no_number_is_refused(server: Server, offset: str) -> None:
    from urllib.parse import quote

    assert server.ask("GET", f"/v1/jobs/j-1/logs?offset={quote(offset)}")[0] in (400, 404)


def test_the_description_names_every_route_and_wants_the_token(server: Server) -> None:
    status, content = server.ask("GET", "/v1/openapi.json")
    assert status == 200
    described = json.loads(content)
    assert described == json.loads(json.dumps(openapi()))
    found = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert found == {(spec.method, spec.path) for spec in ROUTES}
    assert described["security"] == [{"token": []}]


def test_answers_are_not_to_be_kept_or_guessed_at(server: Server) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/v1/jobs", headers={"Authorization": f"Bearer {server.token}"})
        headers = {name.lower(): value for name, value in connection.getresponse().getheaders()}
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


def test_what_the_description_promises_holds_for_any_input(server: Server) -> None:
    described = schemathesis.openapi.from_dict(openapi())
    described.config.update(base_url=f"http://127.0.0.1:{server.port}")

    for operation in described.get_all_operations():
        api = operation.ok()

        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @api_strategy(api)
        def one(case: schemathesis.Case) -> None:
            response = case.call(headers={"Authorization": f"Bearer {server.token}"}, timeout=10)
            assert response.status_code < 500, (case, response.text)

        one()
    assert server.alive()


def api_strategy(api: Any) -> Any:
    from hypothesis import given

    return given(case=api.as_strategy())


def test_nothing_of_the_cluster_reads_or_writes_pickles() -> None:
    folder = Path(serve.__file__).parent
    for path in folder.glob("*.py"):
        assert not {"pickle", "marshal", "shelve", "yaml", "eval(", "exec("} & set(
            path.read_text().replace(".", " ").split()
        )
