"""A prepared card lets itself in: asks with its fleet's key until a person has accepted it, seldom enough for a metered
link. Meanwhile everything is captured and waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from pisyncd import config as settings
from pisyncd import enrolling
from pisyncd.config import Config
from pisyncd.core.errors import PiSyncError, Rejected, TransientError
from pisyncd.runtime.activity import Wake

log = structlog.get_logger()

BASE_S, CAP_S = 60.0, 3600.0
#: A person has said no, or the key has ended: something has to be done there first.
REFUSED_S = 6 * 3600.0
DONE_S = 86_400.0


class Enroller:
    """One step asks once; after the answer that lets it in there is nothing more to do."""

    name = "enroller"
    deadline_s = enrolling.TIMEOUT_S + 60.0

    def __init__(
        self,
        config: Config,
        token: str,
        *,
        chance: Callable[[], float],
        accepted: Callable[[], None],
        told: Callable[[str], None],
    ) -> None:
        """`accepted`: it is in; `told`: what a technician should know of it, '' when all is well."""
        self.wake = Wake()
        self._config = config
        self._token = token
        self._chance = chance
        self._accepted = accepted
        self._told = told
        self._tries = 0

    async def step(self) -> float:
        """Seconds until it asks again."""
        own = await asyncio.to_thread(settings.own_token, self._config)
        if own is None or own.accepted:
            self._told("")
            return DONE_S
        self._tries += 1
        wait_s = min(CAP_S, BASE_S * 2.0 ** min(self._tries - 1, 10)) * (0.75 + 0.5 * self._chance())
        cloud = enrolling.Cloud(url=self._config.cloud.url, ca_file=self._config.cloud.ca_file)
        try:
            key = await asyncio.to_thread(settings.read_fleet_key, self._config)
            found = await enrolling.ask(cloud, self._config.device_id, self._token, fleet_key=key)
        except TransientError as error:
            log.info("enrolment.postponed", code=error.code, detail=error.detail)
            self._told(f"this device is not let in yet: {error.detail}; {error.hint}")
            return wait_s
        except (Rejected, PiSyncError) as error:
            log.warning("enrolment.refused", code=error.code, detail=error.detail)
            self._told(f"this device is not let in: {error.detail}; {error.hint}")
            return REFUSED_S
        if found.state == "pending":
            log.info("enrolment.pending", device=self._config.device_id)
            wanted = f"`pisync-cloud accept {self._config.device_id}`, or the page Enrolment"
            self._told(f"this device waits until somebody at the cloud accepts it: {wanted}")
            return max(wait_s, float(found.retry_after_s or 0))
        await asyncio.to_thread(settings.accept_own_token, self._config)
        log.info("enrolment.accepted", device=self._config.device_id)
        self._told("")
        self._accepted()
        return DONE_S
