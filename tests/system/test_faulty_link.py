"""The link itself: what the other system tests trust it to do."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from rig import link as links
from rig import place
from rig.wait import until


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A connection that the link broke is no news."""


@pytest.fixture
def link() -> Iterator[links.FaultyLink]:
    server = _Server(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with links.FaultyLink(("127.0.0.1", server.server_port)) as faulty:
        yield faulty
    server.shutdown()
    server.server_close()


def post(link: links.FaultyLink, size: int, path: str = "/") -> place.Answer:
    here = place.Here()
    return place.ask(lambda: here.connect("127.0.0.1", link.port, 5), "POST", path, body=b"x" * size, timeout_s=5)


def test_passes_on_and_counts(link: links.FaultyLink) -> None:
    assert post(link, 100_000).body == b"x" * 100_000
    assert 100_000 < link.up_bytes < 101_000
    assert 100_000 < link.down_bytes < 101_000


def test_cuts_after_exactly_so_many_bytes(link: links.FaultyLink) -> None:
    link.cut_after(40_000)
    with pytest.raises(OSError):
        post(link, 100_000)
    assert link.up_bytes == 40_000
    assert post(link, 1_000).status == 200


def test_cuts_each_connection(link: links.FaultyLink) -> None:
    link.cut_each(1_000, 2_000)
    for _ in range(3):
        with pytest.raises(OSError):
            post(link, 50_000)
    assert link.up_bytes <= 6_000
    link.cut_each(0, 0)
    assert post(link, 50_000).status == 200


def test_truncates_answers(link: links.FaultyLink) -> None:
    link.truncate_responses(500)
    with pytest.raises(OSError):
        post(link, 5_000)
    assert link.down_bytes == 500


def test_answers_itself_only_where_asked(link: links.FaultyLink) -> None:
    link.answer(links.too_many(3, only=lambda method, path: path == "/busy"))
    busy = post(link, 200_000, "/busy")
    assert (busy.status, busy.headers["Retry-After"]) == (429, "3")
    assert post(link, 1_000, "/other").body == b"x" * 1_000
    assert [(request.method, request.path) for request in link.answered] == [("POST", "/busy")]
    link.answer(None)
    assert post(link, 10, "/busy").status == 200


def test_goes_down_and_up_on_the_same_port(link: links.FaultyLink) -> None:
    link.down()
    with pytest.raises(ConnectionRefusedError):
        post(link, 10)
    link.up()
    assert post(link, 10).status == 200


def test_stalls_and_goes_on(link: links.FaultyLink) -> None:
    link.stall()
    answers: list[place.Answer] = []
    thread = threading.Thread(target=lambda: answers.append(post(link, 1_000)))
    thread.start()
    until("a connection is open", lambda: link.connections)
    assert link.up_bytes == 0
    link.resume()
    thread.join(timeout=5)
    assert answers[0].status == 200
