"""How a bundle is read: the blocks of a pax tar that a stranger wrote.

Pure: blocks and records in, values out. A bundle holds regular files only. `BadBundle` means that the archive itself
cannot be followed any further; a `Fault` means that one entry is refused and the next one can be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pisyncd.core import wire

BLOCK = 512
PAX_BYTES_MAX = 65_536
SIZE_MAX = 1 << 53
END = bytes(BLOCK)

_SHA256 = re.compile(rb"[0-9a-f]{64}")
_NUMBER = re.compile(rb"[0-9]{1,16}")
_SIGNED = re.compile(rb"-?[0-9]{1,15}")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD_LENGTH = re.compile(rb"([1-9][0-9]{0,5}) ")

_SHA256_KEY = wire.PAX_SHA256.encode()
_MTIME_KEY = wire.PAX_MTIME.encode()
_REUSE_KEY = wire.PAX_REUSE.encode()
_SIZE_KEY = wire.PAX_SIZE.encode()

REGULAR = (b"0", b"\0")
PAX_NEXT = b"x"
PAX_GLOBAL = b"g"
# Links, devices, folders and pipes carry no data whatever their size field says.
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")


class BadBundle(Exception):
    """The archive is broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """One header block. `size` is in bytes, without the padding to the next block."""

    name: bytes
    size: int
    kind: bytes
    mtime_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A member as its header and pax records describe it. With `reuse` it has no data and `size` is the content's."""

    path: bytes
    sha256: str
    size: int
    mtime_ms: int
    reuse: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """An entry that is refused, and why."""

    path: bytes
    code: str


HINTS: Mapping[str, str] = {
    "checksum-mismatch": "the bytes are not those that were promised; read the file again and send it anew",
    "path-invalid": "a path must be relative, without empty, '.' or '..' components, NUL or a name over 255 bytes",
    "content-missing": "the cloud does not hold this content of this device; send its bytes",
    "entry-invalid": "a bundle holds regular files with PISYNC.sha256 only",
    "bundle-invalid": "the archive cannot be read; make and send a new one",
    "bundle-too-large": "send fewer or smaller files in one bundle",
}


def number(field: bytes) -> int:
    """An octal header field. Raises BadBundle for anything else, base-256 included (pax records carry large sizes)."""
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise BadBundle("a number in a header is not octal")
    return int(match[1] or b"0", 8)


def header(block: bytes) -> Header | None:
    """Reads a header block; None for a block of zeros. Raises BadBundle when the block is no header."""
    if block == END:
        return None
    stated = number(block[148:156])
    if sum(block) - sum(block[148:156]) + 256 != stated:
        raise BadBundle("a header does not match its checksum")
    name = block[:100].rstrip(b"\0")
    if block[257:263] == b"ustar\0" and block[345] != 0:
        name = block[345:500].rstrip(b"\0") + b"/" + name
    return Header(name=name, size=number(block[124:136]), kind=block[156:157], mtime_s=number(block[136:148]))


def records(data: bytes) -> dict[bytes, bytes]:
    """b'11 path=abc\\n' -> {b'path': b'abc'}. Raises BadBundle when the lengths do not add up."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        match = _RECORD_LENGTH.match(data, position)
        if match is None:
            raise BadBundle("a pax record has no length")
        end = position + int(match[1])
        record = data[match.end() : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or not record.endswith(b"\n") or not equals:
            raise BadBundle("a pax record is cut or has no value")
        found[key] = value
        position = end
    return found


def stored_size(head: Header, pax: Mapping[bytes, bytes]) -> int:
    """How many bytes of data follow a member's header. Raises BadBundle."""
    if head.kind in WITHOUT_DATA:
        return 0
    text = pax.get(b"size")
    if text is None:
        return head.size
    if not _NUMBER.fullmatch(text) or int(text) > SIZE_MAX:
        raise BadBundle("a pax size is not a number")
    return int(text)


def member(head: Header, pax: Mapping[bytes, bytes], size: int) -> Member | Fault:
    """What a member stands for. `size` is its `stored_size`."""
    path = pax.get(b"path", head.name)
    sha256 = pax.get(_SHA256_KEY, b"")
    mtime = pax.get(_MTIME_KEY)
    reuse = _REUSE_KEY in pax
    promised = pax.get(_SIZE_KEY)
    if wire.path_fault(path) is not None:
        return Fault(path=path, code="path-invalid")
    sound = (
        head.kind in REGULAR
        and _SHA256.fullmatch(sha256) is not None
        and (mtime is None or _SIGNED.fullmatch(mtime) is not None)
        and (promised is None or _NUMBER.fullmatch(promised) is not None)
        and (not reuse or (pax[_REUSE_KEY] == b"1" and size == 0))
        and b"GNU.sparse.major" not in pax
    )
    if not sound:
        return Fault(path=path, code="entry-invalid")
    return Member(
        path=path,
        sha256=sha256.decode(),
        size=int(promised or b"0") if reuse else size,
        mtime_ms=head.mtime_s * 1000 if mtime is None else int(mtime),
        reuse=reuse,
    )
