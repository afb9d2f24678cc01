"""Why a path is where it is: one sentence, a code for scripts, what to do, and what the outbox knows of it.

code              | meaning
------------------|--------------------------------------------------------------
not-watched       | under no watched root
root-missing      | its root is not there now
excluded          | an exclude glob matches
not-included      | no include glob matches
symlink           | it, or a directory above it, is a symbolic link
directory         | a directory: ask for a file in it
special           | a socket, pipe or device: never sent
companion         | belongs to a database and travels inside the database's snapshot
settling          | changed a moment ago; offered when it is quiet
unseen            | there, but not noticed yet
pending           | waits for its turn
backing-off       | was refused, tried again later
uploading         | on its way
complete          | the cloud has exactly this version
changed           | the cloud has an older version; the change was not noticed yet
failed            | refused for good, or cannot be read
superseded        | changed while it was sent; offered again when it is quiet
gone              | deleted here
unknown           | not there, and never seen
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pisyncd.config import WatchRoot
from pisyncd.core import wire
from pisyncd.core.units import size, span
from pisyncd.gateway import looking
from pisyncd.gateway import rows as rows_of
from pisyncd.gateway.ports import Device
from pisyncd.gateway.views import Why
from pisyncd.outbox import Outbox
from pisyncd.sources import globs


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What to say."""

    code: str
    sentence: str
    hint: str = ""


async def explain(device: Device, outbox: Outbox, path: bytes) -> Why:
    """`path` is absolute, a wire path (root-name/...), or relative to any root; raw bytes."""
    root, relative = await _locate(device, outbox, path)
    if root is None:
        text, exact = rows_of.shown(path)
        roots = ", ".join(f"{each.path} ({each.name})" for each in device.config.watch)
        return Why(
            path=text,
            path_b64=exact,
            root=None,
            code="not-watched",
            sentence=f"{text} is not sent: it lies under no watched root.",
            hint=f"watched: {roots}; add its directory to `watch` in the configuration and reload",
            versions=[],
        )
    rows = await outbox.queue.versions(root.name, relative)
    found = await looking.look(root, relative)
    answer = _outside_the_rules(root, relative, found) or await _inside(device, outbox, root, relative, found, rows)
    text, exact = rows_of.shown(os.fsencode(root.name) + b"/" + relative)
    return Why(
        path=text,
        path_b64=exact,
        root=root.name,
        code=answer.code,
        sentence=f"{text} {answer.sentence}",
        hint=answer.hint,
        versions=[rows_of.version_of(row) for row in rows],
    )


async def _locate(device: Device, outbox: Outbox, path: bytes) -> tuple[WatchRoot | None, bytes]:
    roots = device.config.watch
    if path.startswith(b"/"):
        return await looking.root_above(roots, path) or (None, path)
    plain = os.path.normpath(path)
    if plain == b".." or plain.startswith(b"../"):
        return None, path
    first, _, rest = plain.partition(b"/")
    meant = [(root, rest) for root in roots if os.fsencode(root.name) == first]
    for root, relative in [*meant, *((root, plain) for root in roots)]:
        if (await looking.look(root, relative)).kind != "missing" or await outbox.queue.versions(root.name, relative):
            return root, relative
    return meant[0] if meant else (None, path)


def _outside_the_rules(root: WatchRoot, relative: bytes, found: looking.Found) -> Answer | None:
    """Why it would never be sent, whatever the outbox says."""
    if not found.root_there:
        return Answer(
            code="root-missing",
            sentence=f"waits: its root {root.path} is not there now.",
            hint="plug the disk in, or correct the path in the configuration",
        )
    if found.kind == "symlink":
        return Answer(
            code="symlink",
            sentence=f"is not sent: {wire.display_path(found.link)} is a symbolic link, and links are not followed.",
            hint="put the file itself below the root, or watch the directory that the link points to",
        )
    if found.kind == "directory":
        return Answer(
            code="directory", sentence="is a directory; its files are sent one by one.", hint="ask for a file"
        )
    if found.kind == "special":
        return Answer(code="special", sentence="is not sent: it is a socket, a pipe or a device.")
    return _by_globs(root, relative)


def _by_globs(root: WatchRoot, relative: bytes) -> Answer | None:
    for glob in root.exclude:
        if not globs.Filter(exclude=(glob,)).reaches(relative):
            return Answer(
                code="excluded",
                sentence=f"is not sent: the exclude glob `{glob}` of {root.name} matches it.",
                hint="change `exclude` in the configuration and reload, if it should be sent",
            )
    if root.include and not globs.Filter(include=root.include).reaches(relative):
        return Answer(
            code="not-included",
            sentence=f"is not sent: no include glob of {root.name} matches it ({', '.join(root.include)}).",
            hint="add a glob to `include` in the configuration and reload, if it should be sent",
        )
    return None


async def _inside(
    device: Device,
    outbox: Outbox,
    root: WatchRoot,
    relative: bytes,
    found: looking.Found,
    rows: Sequence[dict[str, Any]],
) -> Answer:
    """Where it is on its way."""
    active = next((row for row in rows if row["state"] in ("uploading", "pending")), None)
    if active is not None and active["state"] == "uploading":
        return await _uploading(device, outbox, active)
    if active is not None:
        return await _pending(device, outbox, active)
    if found.kind == "unreadable":
        return Answer(code="failed", sentence=f"cannot be read: {found.fault}.", hint="check the disk and the rights")
    newest = rows[0] if rows else None
    if found.kind == "missing":
        return _missing(newest)
    if found.beside_database and newest is None:
        return Answer(code="companion", sentence="belongs to a database and travels inside the database's snapshot.")
    settling_s = device.settling_s(root.name, relative)
    if settling_s is not None:
        return Answer(
            code="settling",
            sentence=f"changed a moment ago; it is offered when it is quiet, in about {settling_s:.0f} s.",
        )
    return _settled(newest, found)


async def _uploading(device: Device, outbox: Outbox, row: dict[str, Any]) -> Answer:
    transfer = await outbox.files.transfer(row["transfer_id"])
    if transfer is None:
        return Answer(code="uploading", sentence="is on its way.")
    moving = next((each for each in device.transfers() if each.id == transfer.id), None)
    obstacle = _obstacle(device)
    offset = moving.offset if moving else transfer.offset
    how = "in a bundle, " if transfer.kind == "bundle" else ""
    percent = 100 * offset // transfer.length if transfer.length else 100
    sentence = f"is on its way, {how}at {size(offset)} of {size(transfer.length)} ({percent} %)"
    return Answer(
        code="uploading",
        sentence=f"{sentence}." if moving and not obstacle else f"{sentence}; it goes on from there{obstacle}.",
    )


async def _pending(device: Device, outbox: Outbox, row: dict[str, Any]) -> Answer:
    wait_s = (row["due_at_ms"] - outbox.db.now_ms()) / 1000
    if wait_s > 0:
        return Answer(
            code="backing-off",
            sentence=f"could not be sent ({row['error_detail'] or row['error_code'] or 'unknown reason'}); "
            f"it is tried again in {span(wait_s)}.",
            hint=row["error_hint"] or f"`pisyncctl retry {row['id']}` tries now",
        )
    obstacle = _obstacle(device)
    ahead = await outbox.queue.position(row["id"], row["priority"])
    place = "it is next" if ahead == 0 else f"{ahead} file{'' if ahead == 1 else 's'} go first"
    return Answer(code="pending", sentence=f"waits to be sent; {place}{obstacle}.")


def _obstacle(device: Device) -> str:
    """What holds sending up, as the end of a sentence; empty when nothing does."""
    if device.paused():
        return "; sending is paused"
    link = device.link()
    if link.state != "full":
        return f"; the cloud cannot be reached: {link.reason}"
    if link.backoff_s > 0:
        return f"; {link.backoff_reason or 'waiting after an error'}, next try in {span(link.backoff_s)}"
    return ""


def _missing(newest: dict[str, Any] | None) -> Answer:
    if newest is None:
        return Answer(code="unknown", sentence="is not there and was never seen.", hint="check the name")
    if newest["state"] == "complete":
        return Answer(code="gone", sentence="was deleted here; the cloud has its last version.")
    return Answer(
        code="gone",
        sentence="was deleted here before this version could be sent.",
        hint=newest["error_hint"] or "put it back, if it was not deleted on purpose",
    )


def _settled(newest: dict[str, Any] | None, found: looking.Found) -> Answer:
    if newest is None:
        return Answer(
            code="unseen",
            sentence="is there but was not noticed yet; the next look at its root finds it.",
            hint="`systemctl reload pisyncd` looks at once",
        )
    if newest["state"] == "failed":
        return Answer(
            code="failed",
            sentence=f"is not sent: {newest['error_detail'] or newest['error_code']}",
            hint=newest["error_hint"] or f"`pisyncctl retry {newest['id']}` tries again",
        )
    if newest["state"] == "superseded":
        return Answer(code="superseded", sentence="changed while it was sent; it is offered again when it is quiet.")
    same = newest["kind"] == "sqlite" or (newest["size"], newest["mtime_ns"]) == (found.size, found.mtime_ns)
    if not same:
        return Answer(code="changed", sentence="changed after it was sent; the next look at its root finds that.")
    version = rows_of.version_of(newest)
    return Answer(code="complete", sentence=f"is complete: the cloud has this version since {version.completed_at}.")
