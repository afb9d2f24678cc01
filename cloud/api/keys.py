"""What is remembered with a request while it is served."""

from __future__ import annotations

from aiohttp import web

from cloud.flows.rates import Left
from cloud.rules.access import Principal

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
PROBLEM: web.RequestKey[str] = web.RequestKey("problem", str)
#: What the sender has left of its limit.
RATES: web.RequestKey[Left | None] = web.RequestKey("rates", Left)
#: Its token has ended while it was served.
SHUT_OUT: web.RequestKey[bool] = web.RequestKey("shut_out", bool)
#: The answer has begun.
BEGUN: web.RequestKey[bool] = web.RequestKey("begun", bool)
CLIENT: web.RequestKey[str] = web.RequestKey("client", str)
