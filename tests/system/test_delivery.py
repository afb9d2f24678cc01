"""Everything in a directory arrives exactly once and byte for byte, whatever it is called."""

from __future__ import annotations

from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud
from rig.link import FaultyLink
from rig.wait import until


def test_a_directory_arrives_whole_and_is_not_sent_again(
    shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice
) -> None:
    device = make_device(shared_cloud, link=link)
    files = trees.small(1)
    trees.write(judge.learning(device), files)
    assert device.once() == 0
    judge.delivered(shared_cloud, device)
    events = judge.history_holds(shared_cloud, device)
    assert [(event["sync_status"], event["total_files_synced"]) for event in events] == [("success", len(files))]

    sent = link.up_bytes
    assert device.once() == 0
    assert link.up_bytes - sent < 8_000
    judge.delivered(shared_cloud, device)


def test_over_postgresql(postgres_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(postgres_cloud)
    trees.write(judge.learning(device), {**trees.small(2), **trees.ODD_NAMES})
    assert device.once() == 0
    judge.delivered(postgres_cloud, device)


def test_odd_names(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud)
    nested = {b"d" * 255 + b"/" + name: content for name, content in trees.ODD_NAMES.items()}
    trees.write(judge.learning(device), {**trees.ODD_NAMES, **nested})
    assert device.once() == 0
    judge.delivered(shared_cloud, device)


def test_a_changed_file_becomes_a_version(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud)
    first, second = {b"notes.txt": b"first"}, {b"notes.txt": b"second, longer"}
    trees.write(judge.learning(device), first)
    device.start()
    until("the first arrives", lambda: judge.holds(shared_cloud, device, first))
    trees.write(judge.learning(device), second)
    until("the second arrives", lambda: judge.holds(shared_cloud, device, second))
    path = b"learning/notes.txt"
    assert shared_cloud.files(device.device_id)[path].versions == 2
    assert [shared_cloud.content(device.device_id, path, version) for version in (1, 2)] == [
        b"first",
        b"second, longer",
    ]
    assert device.stop() == 0


def test_a_new_directory_and_a_rename_are_noticed_without_a_scan(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud, settings={"settle": {"debounce_s": 0.1, "rescan_s": 604_800}})
    device.start()
    deep = {b"a/b/c/d/file.txt": b"deep"}
    trees.write(judge.learning(device), deep)
    until("the file in new directories arrives", lambda: judge.holds(shared_cloud, device, deep))
    (judge.learning(device) / "a").rename(judge.learning(device) / "z")
    renamed = {b"z/b/c/d/file.txt": b"deep"}
    until("the file under its new name arrives", lambda: judge.holds(shared_cloud, device, renamed))


def test_content_that_was_delivered_is_not_sent_again(
    shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice
) -> None:
    device = make_device(shared_cloud, link=link)
    content = trees.small(3, largest=3_000_000)[b"large.bin"]
    trees.write(judge.learning(device), {b"one.mp4": content})
    assert device.once() == 0
    sent = link.up_bytes
    trees.write(judge.learning(device), {b"copy.mp4": content})
    assert device.once() == 0
    judge.delivered(shared_cloud, device)
    assert link.up_bytes - sent < 16_000


def test_two_devices_see_only_themselves(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    one, other = make_device(shared_cloud), make_device(shared_cloud)
    trees.write(judge.learning(one), {b"same-name.txt": b"of the one"})
    trees.write(judge.learning(other), {b"same-name.txt": b"of the other"})
    assert (one.once(), other.once()) == (0, 0)
    judge.delivered(shared_cloud, one)
    judge.delivered(shared_cloud, other)
    token = (one.root / "token").read_text()
    own = shared_cloud.ask("GET", f"/api/devices/{one.device_id}/files", key=token)
    assert own.status == 200
    for path in ("files", "files/learning/same-name.txt", "contents"):
        answer = shared_cloud.ask("GET", f"/api/devices/{other.device_id}/{path}", key=token)
        assert answer.status == 403, path
        assert answer.json()["code"] == "ownership-mismatch"
    history = shared_cloud.ask("GET", f"/api/device/{other.device_id}/sync-history", key=token)
    assert history.status == 403
