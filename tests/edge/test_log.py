"""What is written to the journal: one line per event, nothing secret, nothing endless."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pisyncd import log


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_is_one_line_of_ascii_whatever_it_holds() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    structlog.get_logger().info(
        "upload.completed", path=b"caf\xe9\n", text="\ud800\x1b[2J", bytes=5, other={1, 2} - {2}
    )
    assert stream.getvalue().isascii()
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["bytes"]) == ("upload.completed", "info", 5)
    assert line["path"] == "caf\\xe9\n"
    assert line["at"].endswith("Z")


def test_keyvalue_quotes_what_would_break_a_line() -> None:
    stream = io.StringIO()
    log.configure("info", "keyvalue", stream)
    structlog.get_logger().warning("link.changed", reason="no answer", url="http://x/", none=None, bad="a\x1b[2J\nb")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(
        'level=warning event=link.changed reason="no answer" url=http://x/ none=null bad="a\\u001b[2J\\nb"'
    )


def test_the_level_holds_and_can_be_changed() -> None:
    stream = io.StringIO()
    logger = structlog.get_logger()
    log.configure("warning", "json", stream)
    logger.info("quiet")
    log.configure("debug", "json", stream)
    logger.debug("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_secrets_are_hidden_and_long_texts_cut() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    structlog.get_logger().info("x", token="abc", Authorization=b"Bearer abc", password="p", detail="y" * 5000)
    (line,) = lines(stream)
    assert (line["token"], line["Authorization"], line["password"]) == ("[hidden]",) * 3
    assert len(line["detail"]) < 2100


def test_what_is_too_long_keeps_both_ends() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream=stream)
    structlog.get_logger().error("daemon.crashed", exception="first" + "x" * 100_000 + "ValueError: boom")
    [line] = lines(stream)
    assert line["exception"].startswith("first")
    assert line["exception"].endswith("ValueError: boom")
    assert len(line["exception"]) < 5000


def test_an_exception_keeps_its_traceback_in_the_line() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("daemon.crashed")
    assert "ValueError: boom" in lines(stream)[0]["exception"]


def test_what_libraries_log_comes_the_same_way() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    logging.getLogger("aiohttp.server").error("broken %s", "pipe")
    logging.getLogger("aiohttp.server").info("noise")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["detail"]) == ("library.reported", "aiohttp.server", "broken pipe")


def admit(repeats: log.Repeats, key: str, now: float) -> list[dict[str, Any]]:
    return repeats.admit(key, {"event": key}, now)


def test_a_repeated_line_is_written_once_per_30_seconds_with_its_count() -> None:
    repeats = log.Repeats()
    written = [admit(repeats, "a", second * 0.1) for second in range(900)]
    told = [(index / 10, each) for index, lines_now in enumerate(written) for each in lines_now]
    assert told == [
        (0.0, {"event": "a"}),
        (30.0, {"event": "a", "repeated": 299}),
        (60.0, {"event": "a", "repeated": 300}),
    ]


def test_the_count_is_told_even_when_the_line_never_comes_again() -> None:
    repeats = log.Repeats()
    for _ in range(5):
        admit(repeats, "a", 0.0)
    assert admit(repeats, "b", 10.0) == [{"event": "b"}]
    assert admit(repeats, "c", 31.0) == [{"event": "a", "repeated": 4}, {"event": "c"}]


def test_lines_that_differ_are_all_written() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    logger = structlog.get_logger()
    for number in range(5):
        logger.info("upload.completed", upload=number % 3)
    assert [line["upload"] for line in lines(stream)] == [0, 1, 2]


def test_what_is_remembered_is_bounded_and_tells_before_it_forgets() -> None:
    repeats = log.Repeats()
    admit(repeats, "first", 0.0)
    admit(repeats, "first", 0.0)
    told = [each for number in range(log.KINDS_MAX) for each in admit(repeats, str(number), 0.0)]
    assert {"event": "first", "repeated": 1} in told
    assert len(told) == log.KINDS_MAX + 1


def test_a_closed_stream_does_not_end_the_daemon() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    stream.close()
    structlog.get_logger().info("x")


def test_under_systemd_the_level_is_the_journals_own_and_the_time_too() -> None:
    program = (
        "from pisyncd import log; log.configure('info', 'keyvalue'); "
        "import structlog; structlog.get_logger().warning('a.b'); structlog.get_logger().error('c.d')"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"JOURNAL_STREAM": "8:1"}, check=True
    )
    assert said.stderr == "<4>level=warning event=a.b\n<3>level=error event=c.d\n"


def test_the_daemon_does_not_carry_rich() -> None:
    program = (
        "import sys, pisyncd.log, pisyncd.daemon; print([m for m in sys.modules if m.partition('.')[0] == 'rich'])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
