"""Encodings of the wire: each way and back, and what hostile input meets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import wire

keys = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=20)


@given(st.dictionaries(keys, st.binary(max_size=300), max_size=6))
def test_metadata_there_and_back(pairs):
    assert wire.decode_metadata(wire.encode_metadata(dict(pairs))) == pairs


def test_a_key_without_a_value_is_empty():
    assert wire.decode_metadata("reuse,kind ZmlsZQ==") == {"reuse": b"", "kind": b"file"}


MALFORMED = ["kind !!!", "a YQ==,a YQ==", "schlüssel YQ==", "a YQ==,,b YQ==", "a b c", "kind ZmlsZ", "kind é"]


@pytest.mark.parametrize("header", MALFORMED)
def test_malformed_metadata_is_refused(header):
    with pytest.raises(ValueError, match="Upload-Metadata"):
        wire.decode_metadata(header)


@given(st.text(max_size=400))
def test_no_metadata_header_does_more_than_be_refused(header):
    try:
        wire.decode_metadata(header)
    except ValueError as error:
        assert "Upload-Metadata" in str(error)


def test_a_proof_is_hmac_sha256_of_the_challenge_under_the_token():
    # printf %s abc | openssl dgst -sha256 -hmac secret
    assert wire.proof("secret", "abc") == "9946dad4e00e913fc8be8e5d3f7e110a4a9e832f83fb09c345285d78638d8a0e"
    assert wire.proof_holds("secret", "abc", wire.proof("secret", "abc"))
    assert not wire.proof_holds("secret", "abd", wire.proof("secret", "abc"))
    assert not wire.proof_holds("secret", "abc", None)
    assert not wire.proof_holds("secret", "abc", "é" * 64)


@pytest.mark.parametrize(
    ("path", "sound"),
    [
        (b"root/a.txt", True),
        (b"root/line\nbreak", True),
        (b"root/\xff\xfe", True),
        (b"r/" + b"n" * 255, True),
        (b"r/" + b"n" * 256, False),
        (b"", False),
        (b"/etc/passwd", False),
        (b"a//b", False),
        (b"a/./b", False),
        (b"a/../b", False),
        (b"..", False),
        (b"a/", False),
        (b"a\0b", False),
        (b"a/" * 2048 + b"b", False),
    ],
)
def test_wire_paths(path, sound):
    assert (wire.path_fault(path) is None) == sound


def test_time_on_the_wire():
    assert wire.rfc3339(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert wire.rfc3339(0) == "1970-01-01T00:00:00.000Z"


def test_paths_that_are_not_utf8_can_be_shown():
    assert wire.display_path(b"a/\xff\xc3\xa9") == "a/\\xffé"
