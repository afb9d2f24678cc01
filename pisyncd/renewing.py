"""A token that the cloud gives: kept first, used then; and back to the one before it when the cloud knows no other."""

from __future__ import annotations

import asyncio
import os

import structlog

from pisyncd import config as settings
from pisyncd.config import Config
from pisyncd.core.errors import ConfigError
from pisyncd.uplink import Uplink

log = structlog.get_logger()


class Renewing:
    """Between the sender, which is given tokens, and the uplink, which uses them."""

    def __init__(self, config: Config, uplink: Uplink, token: str) -> None:
        self._config = config
        self._uplink = uplink
        self._token = token
        self._configured = settings.first_token(config, os.environ)
        uplink.spare_token = self._configured if self._configured != token else None
        uplink.fell_back = self.fall_back

    async def take(self, token: str) -> None:
        """Goes on with `token` once it is durable; a device that cannot keep it goes on with the old one."""
        try:
            await asyncio.to_thread(settings.store_token, self._config, os.environ, token)
        except (OSError, ConfigError) as error:
            log.warning("token.not_kept", detail=str(error))
            return
        self._uplink.spare_token, self._token = self._token, token
        self._uplink.renew(token)
        log.info("token.renewed")

    def fall_back(self) -> None:
        """The cloud has proven itself with the token before: it was set back, or a person has given it again."""
        self._token = self._uplink.token
        try:
            if self._token == self._configured:
                settings.forget_token(self._config)
            else:
                settings.store_token(self._config, os.environ, self._token)
        except (OSError, ConfigError) as error:
            log.warning("token.not_kept", detail=str(error))
        log.warning("token.fell_back")
