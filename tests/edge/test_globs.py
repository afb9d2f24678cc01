import re

import pytest

from pisyncd.sources.globs import Filter, to_regex

FILES = [
    # glob, path, whether it matches
    ("*.tmp", b"a.tmp", True),
    ("*.tmp", b"deep/down/a.tmp", True),
    ("*.tmp", b"a.tmp.txt", False),
    ("*.tmp", b".tmp", True),
    ("*.tmp", b"a\nb.tmp", True),
    ("*.tmp", b"\xff\xfe.tmp", True),
    ("*.TMP", b"a.tmp", False),
    ("cache/**", b"cache/a", True),
    ("cache/**", b"cache/deep/a", True),
    ("cache/**", b"cache", False),
    ("cache/**", b"other/cache/a", False),
    ("/notes.txt", b"notes.txt", True),
    ("/notes.txt", b"deep/notes.txt", False),
    ("logs/*.log", b"logs/a.log", True),
    ("logs/*.log", b"logs/deep/a.log", False),
    ("**/raw/*.d", b"raw/a.d", True),
    ("**/raw/*.d", b"x/y/raw/a.d", True),
    ("**/raw/*.d", b"xraw/a.d", False),
    ("a/**/b", b"a/b", True),
    ("a/**/b", b"a/x/y/b", True),
    ("a/**/b", b"a/xb", False),
    ("?.md", "é.md".encode(), True),
    ("?.md", b"ab.md", False),
    ("[ab]*.csv", b"b1.csv", True),
    ("[!ab]*.csv", b"b1.csv", False),
    ("[a-c].csv", b"b.csv", True),
    ("[*].csv", b"*.csv", True),
    ("[*].csv", b"x.csv", False),
    ("[", b"[", True),
    ("a[!]b]c", b"axc", True),
    ("x[^a]y", b"x^y", True),
    ("a.b", b"axb", False),
    ("build/", b"build", False),
    ("**", b"any/thing", True),
    ("**/", b"thing", False),
]


@pytest.mark.parametrize(("glob", "path", "matches"), FILES)
def test_excluding_a_file(glob: str, path: bytes, matches: bool) -> None:
    assert Filter(exclude=[glob]).takes(path) is not matches


@pytest.mark.parametrize(
    ("glob", "directory", "entered"),
    [
        ("cache/**", b"cache", False),
        ("cache/**", b"other/cache", True),
        ("build/", b"deep/build", False),
        ("build", b"deep/build", False),
        ("/build", b"deep/build", True),
        ("*.tmp", b"x.tmp", False),
        ("a/*", b"a", True),
        ("a/*", b"a/b", False),
        ("*", b"", True),
    ],
)
def test_entering_a_directory(glob: str, directory: bytes, entered: bool) -> None:
    assert Filter(exclude=[glob]).enters(directory) is entered


def test_an_exclude_wins_over_an_include() -> None:
    rules = Filter(include=["*.json", "photos/", "logs/**"], exclude=["*.tmp.json", "logs/old/**"])
    taken = [b"a.json", b"x/y/b.json", b"photos/p.jpg", b"z/photos/deep/p.jpg", b"logs/l"]
    assert [path for path in taken if rules.reaches(path)] == taken
    assert not any(rules.reaches(path) for path in (b"a.txt", b"a.tmp.json", b"photos", b"logs/old/x.json", b"logs"))


def test_what_lies_below_an_excluded_directory_is_out_of_reach() -> None:
    rules = Filter(exclude=["node_modules"])
    assert not rules.reaches(b"app/node_modules/deep/index.js")
    assert rules.reaches(b"app/node_modules2/index.js")


def test_an_escaped_name_matches_itself_only() -> None:
    name = "odd[1]*?\\name"
    glob = re.sub(r"([*?\[\]])", r"[\1]", name)
    assert Filter(include=["/" + glob]).takes(name.encode())
    assert not Filter(include=["/" + glob]).takes(b"oddX")


@pytest.mark.parametrize("glob", ["", "/", "//", "../x", "a/../b", "a//b", "./a", "a\0b", "[z-a]"])
def test_a_glob_that_cannot_match_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match="glob"):
        to_regex(glob)
