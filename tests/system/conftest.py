"""Real processes for every test: a cloud, devices, and a bad link between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rig import postgres
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.process import Child

_NUMBERS = itertools.count(1)

MakeDevice = Callable[..., Device]
_CHILDREN = pytest.StashKey[list[Child]]()


@pytest.fixture(scope="session")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud that no test stops; tests keep apart by their devices."""
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    cloud.start()
    yield cloud
    assert cloud.stop() == 0, cloud.process.tail()


@pytest.fixture
def own_cloud(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cloud that the test may stop, kill and start again."""
    cloud = Cloud(tmp_path / "cloud")
    request.node.stash.setdefault(_CHILDREN, []).append(cloud.process)
    cloud.start()
    yield cloud
    cloud.kill()


@pytest.fixture(scope="session")
def postgres_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud over PostgreSQL."""
    with postgres.database() as url:
        cloud = Cloud(tmp_path_factory.mktemp("postgres-cloud"), database=url)
        cloud.start()
        yield cloud
        assert cloud.stop() == 0, cloud.process.tail()


@pytest.fixture
def link(shared_cloud: Cloud) -> Iterator[FaultyLink]:
    """A link to the shared cloud."""
    with FaultyLink(shared_cloud.address) as faulty:
        yield faulty


@pytest.fixture
def make_device(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeDevice]:
    """Make enrolled devices, each with a directory `learning` to watch; their logs are shown when a test fails."""
    made: list[Device] = []
    children = request.node.stash.setdefault(_CHILDREN, [])

    def make(
        cloud: Cloud, *, link: FaultyLink | None = None, settings: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Device:
        device_id = f"device-{next(_NUMBERS)}"
        root = tmp_path / device_id
        learning = root / "learning"
        learning.mkdir(parents=True)
        device = Device(
            root,
            device_id=device_id,
            token=cloud.enroll(device_id),
            url=link.url if link else cloud.url,
            watch=[learning],
            settings=settings,
        )
        made.append(device)
        children.append(device.process)
        return device

    yield make
    for device in made:
        device.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the processes' logs with a failure."""
    report = yield
    if report.failed:
        for child in item.stash.get(_CHILDREN, []):
            report.sections.append((f"log of {child.name}", child.tail()))
    return report
