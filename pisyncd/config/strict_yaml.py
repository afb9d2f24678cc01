"""YAML read so that it means what a person sees.

YAML 1.1 makes `no` False, `010` 8 and `12:30:00` 45000, and lets the second of two equal keys win. Here `true` and
`false` are the only booleans, numbers are decimal, everything else is text, and a repeated key is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})\.[0-9]{1,18}([eE][-+]?[0-9]{1,2})?")
_DEPTH_MAX = 12

Value = None | bool | int | float | str | list["Node"] | dict[str, "Node"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A value and the line (from 1) where it stands. `text` is a scalar as it is written."""

    value: Value
    line: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that cannot be read, and where."""

    line: int
    detail: str


def read(text: str) -> tuple[Node | None, list[Fault]]:
    """The document as nodes, with every fault. An empty file is an empty mapping; broken syntax is None."""
    faults: list[Fault] = []
    try:
        return _Reader(yaml.parse(text, Loader=yaml.SafeLoader), faults).document(), faults
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = ", ".join(part for part in (error.context, error.problem) if part)
        return None, [*faults, Fault(line=mark.line + 1 if mark else 1, detail=f"not valid YAML: {detail}")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [*faults, Fault(line=line, detail="not valid YAML: it holds a control character")]


def scalar(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar means: `true` True, `12` 12, `1.5` 1.5, `no` 'no', `010` '010', `12:30:00` '12:30:00'."""
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text


class _Reader:
    """Builds nodes from parser events, so that an alias cannot multiply a small file into gigabytes."""

    def __init__(self, events: Iterator[yaml.Event], faults: list[Fault]) -> None:
        self._events = events
        self._faults = faults

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._fault(event, "a second document (---) is not allowed")
                    return root
                root = self._node(next(self._events), 0)
        return Node(value={}, line=1) if root is None or root.value is None else root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            self._fault(event, "aliases (*name) are not allowed; write the value out")
            return Node(value=None, line=line)
        if (tag := getattr(event, "tag", None)) is not None:
            self._fault(event, f"tags are not allowed ({tag}); leave it out")
        if isinstance(event, yaml.ScalarEvent):
            text = self._text(event)
            return Node(value=text if event.style else scalar(text), line=line, text=text)
        if depth >= _DEPTH_MAX:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=yaml.Mark("", 0, line - 1, 0, None, 0))
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(value=self._sequence(depth + 1), line=line)
        return Node(value=self._mapping(depth + 1), line=line)

    def _sequence(self, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth))
        return items

    def _mapping(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._text(event) if isinstance(event, yaml.ScalarEvent) else None
            if key is None:
                self._fault(event, "a key must be a plain word")
                self._node(event, depth)
            node = self._node(next(self._events), depth)
            if key is None:
                continue
            if key in entries:
                self._fault(event, f"the key `{key}` stands here twice (first in line {entries[key].line}); remove one")
            else:
                entries[key] = Node(value=node.value, line=_line(event), text=node.text)
        return entries

    def _text(self, event: yaml.ScalarEvent) -> str:
        try:
            event.value.encode("utf-8")
        except UnicodeEncodeError:
            self._fault(event, "holds half of a character (a lone surrogate); write the whole character")
            return ""
        return str(event.value)

    def _fault(self, event: yaml.Event, detail: str) -> None:
        self._faults.append(Fault(line=_line(event), detail=detail))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
