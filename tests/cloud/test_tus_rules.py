"""The pure parts: headers, bundle blocks, ranges, names."""

from __future__ import annotations

import base64
import contextlib
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.rules import bundle, download, tus
from pisyncd.core import wire
from tests.cloud.tus_helpers import member, tar_of


@pytest.mark.parametrize("text", ["0", "7", "0007", "9" * 16])
def test_integers_are_digits(text: str) -> None:
    assert tus.integer("X", text) == int(text)


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1 ", "1\n", "1.0", "1e3", "0x1", "٣", "²", "9" * 17])
def test_everything_else_is_no_integer(text: str) -> None:
    with pytest.raises(tus.BadHeader):
        tus.integer("X", text)


@given(st.text(max_size=60))
def test_no_text_breaks_a_header(text: str) -> None:
    for read in (tus.metadata, tus.checksum, tus.concat, lambda said: tus.integer("X", said)):
        try:
            read(text)
        except tus.BadHeader as fault:
            assert fault.header in str(fault)
    assert tus.encoding(text) in (None, "identity", "gzip", "zstd")


@given(st.dictionaries(st.from_regex(r"[!-+\--~]{1,10}", fullmatch=True), st.one_of(st.none(), st.binary(max_size=40))))
def test_metadata_comes_back(pairs: dict[str, bytes | None]) -> None:
    assert tus.metadata(wire.encode_metadata(pairs)) == {key: value or b"" for key, value in pairs.items()}


def test_metadata_has_an_end() -> None:
    with pytest.raises(tus.BadHeader):
        tus.metadata("a" * (tus.METADATA_CHARS_MAX + 1))


def test_what_a_client_wants() -> None:
    found = tus.intent({"kind": b"bundle", "sha256": b"ab" * 32, "mtime_ms": b"-5", "reuse": b"", "path": b"a\xff"})
    assert found == tus.Intent(kind="bundle", path=b"a\xff", sha256=b"\xab" * 32, mtime_ms=-5, reuse=True)
    assert tus.intent({}) == tus.Intent()
    assert tus.intent({"filename": b"x", "path": b""}).path == b"x"
    for bad in (
        {"kind": b"delta?"},
        {"sha256": b"AB" * 32},
        {"sha256": b"ab"},
        {"mtime_ms": b"1.5"},
        {"mtime_ms": b"1" * 16},
    ):
        with pytest.raises(tus.BadHeader):
            tus.intent(bad)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("final;" + "a" * 32, ["a" * 32]),
        (f"final;/api/files/{'a' * 32} https://x.example/base/api/files/{'b' * 32}", ["a" * 32, "b" * 32]),
        (f"final;api/files/{'a' * 32}/", ["a" * 32]),
    ],
)
def test_parts_are_named_by_address(text: str, parts: list[str]) -> None:
    found = tus.concat(text)
    assert found is not None
    assert (found.final, list(found.parts)) == (True, parts)


@pytest.mark.parametrize(
    "text",
    ["", "final", "final; ", "partial;x", "final;/api/files/..", "final;/api/files/" + "A" * 32, "final;" + "x " * 9],
)
def test_other_concatenations_are_refused(text: str) -> None:
    with pytest.raises(tus.BadHeader):
        tus.concat(text)
    with pytest.raises(tus.BadHeader):
        tus.concat("final;" + " ".join(["a" * 32] * (tus.PARTS_MAX + 1)))


def test_checksums() -> None:
    found = tus.checksum("sha1 " + base64.b64encode(b"x" * 20).decode())
    assert found is not None
    assert (found.algorithm, found.digest, found.hasher().name) == ("sha1", b"x" * 20, "sha1")
    assert tus.checksum(None) is None


def blocks(raw: bytes) -> tuple[bundle.Header, dict[bytes, bytes], bundle.Header]:
    """The pax header, its records and the member's header of a tar with one member."""
    first = bundle.header(raw[:512])
    assert first is not None
    assert first.kind == bundle.PAX_NEXT
    pax = bundle.records(raw[512 : 512 + first.size])
    at = 512 + -(-first.size // 512) * 512
    second = bundle.header(raw[at : at + 512])
    assert second is not None
    return first, pax, second


@given(
    st.binary(min_size=1, max_size=300).filter(
        lambda name: wire.path_fault(name) is None and name == name.rstrip(b"/")
    ),
    st.integers(0, 5000),
)
def test_what_tarfile_writes_is_read(name: bytes, size: int) -> None:
    _, pax, head = blocks(tar_of([member(name, bytes(size))]))
    found = bundle.member(head, pax, bundle.stored_size(head, pax))
    assert isinstance(found, bundle.Member)
    assert (found.path, found.size, found.mtime_ms, found.reuse) == (name, size, 1700000000123, False)


@given(st.binary(min_size=512, max_size=512))
def test_no_block_breaks_the_reader(block: bytes) -> None:
    with contextlib.suppress(bundle.BadBundle):
        head = bundle.header(block)
        assert head is None or head.size >= 0


@given(st.binary(max_size=200))
def test_no_records_break_the_reader(data: bytes) -> None:
    with contextlib.suppress(bundle.BadBundle):
        assert all(key in data and value in data for key, value in bundle.records(data).items())


def test_a_long_name_in_the_ustar_way_is_joined() -> None:
    info = tarfile.TarInfo("d" * 90 + "/" + "f" * 90)
    head = bundle.header(info.tobuf(tarfile.USTAR_FORMAT))
    assert head is not None
    assert head.name == b"d" * 90 + b"/" + b"f" * 90


@pytest.mark.parametrize(
    ("said", "size", "expected"),
    [
        (None, 10, (0, 10, False)),
        ("bytes=2-4", 10, (2, 3, True)),
        ("bytes=-3", 10, (7, 3, True)),
        ("bytes=-0", 10, None),
        ("bytes=0-", 0, None),
        ("bytes=-5", 0, None),
        ("bytes=4-2", 10, (0, 10, False)),
        ("bytes=" + "9" * 30 + "-", 10, (0, 10, False)),
    ],
)
def test_spans(said: str | None, size: int, expected: tuple[int, int, bool] | None) -> None:
    found = download.span(said, size)
    assert (None if found is None else (found.start, found.length, found.partial)) == expected


@given(st.text(alphabet="0123456789-,= bytes", max_size=20), st.integers(0, 1000))
def test_a_span_lies_within_the_file(said: str, size: int) -> None:
    for text in (said, "bytes=" + said):
        found = download.span(text, size)
        assert found is None or (found.start >= 0 and found.start + found.length <= size)


@given(st.binary(max_size=300))
def test_a_hostile_name_stays_inside_its_quotes(path: bytes) -> None:
    shown = download.disposition(path)
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.count('"') == 2
    assert "/" not in shown
