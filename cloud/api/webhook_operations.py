"""The operations of webhooks out and of the sync queue, for the API document."""

from __future__ import annotations

from cloud.api import sync, webhooks
from cloud.api.openapi import Operation, Param, Reply
from cloud.api.params import LIMIT_MAX
from cloud.rules import delivery

_WHOLE = {"type": "integer", "minimum": 1}
_WEBHOOK = Param(name="webhook_id", place="path", about="the webhook's id: wh_...")
_PAGE = Param(name="page", schema={**_WHOLE, "default": 1})
_LIMIT = Param(name="limit", schema={**_WHOLE, "maximum": LIMIT_MAX, "default": 50})
_CURSOR = Param(name="cursor", about="`next_cursor` of the page before")
_BODY = (400, 408, 413, 415, 422, 503)

WEBHOOKS = (
    Operation(
        method="GET",
        path="/api/webhooks",
        name="getWebhooks",
        tag="webhooks",
        summary="All webhooks, newest first",
        auth="A",
        params=(_PAGE, _LIMIT),
        replies=(Reply(about="a page", body=webhooks.WebhookOut, frame="list"),),
        refusals=(422,),
    ),
    Operation(
        method="POST",
        path="/api/webhooks",
        name="postWebhook",
        tag="webhooks",
        summary="Have what happens sent to an address",
        about="Deliveries are signed as Standard Webhooks 1.0.0 says. The secret is told only in this answer.",
        auth="A",
        body=webhooks.WebhookIn,
        replies=(Reply(status=201, about="made", body=webhooks.WebhookSecret),),
        refusals=(409, *_BODY),
    ),
    Operation(
        method="GET",
        path="/api/webhooks/{webhook_id}",
        name="getWebhook",
        tag="webhooks",
        summary="One webhook",
        auth="A",
        params=(_WEBHOOK,),
        replies=(Reply(about="the webhook", body=webhooks.WebhookOut),),
        refusals=(404,),
    ),
    Operation(
        method="PATCH",
        path="/api/webhooks/{webhook_id}",
        name="patchWebhook",
        tag="webhooks",
        summary="Change a webhook, switch it off or on again",
        auth="A",
        params=(_WEBHOOK,),
        body=webhooks.WebhookChange,
        replies=(Reply(about="the webhook as it is now", body=webhooks.WebhookOut),),
        refusals=(404, *_BODY),
    ),
    Operation(
        method="DELETE",
        path="/api/webhooks/{webhook_id}",
        name="deleteWebhook",
        tag="webhooks",
        summary="Remove a webhook and what was still to be delivered to it",
        auth="A",
        params=(_WEBHOOK,),
        replies=(Reply(status=204, about="removed"),),
        refusals=(404, 503),
    ),
    Operation(
        method="POST",
        path="/api/webhooks/{webhook_id}/rotate-secret",
        name="postWebhookRotateSecret",
        tag="webhooks",
        summary="A new secret; for `keep_old_hours` both sign",
        auth="A",
        params=(_WEBHOOK,),
        body=webhooks.RotateIn,
        replies=(Reply(about="the webhook with its new secret", body=webhooks.WebhookSecret),),
        refusals=(404, *_BODY),
    ),
    Operation(
        method="GET",
        path="/api/webhooks/{webhook_id}/deliveries",
        name="getWebhookDeliveries",
        tag="webhooks",
        summary="The delivery log, newest first",
        auth="A",
        params=(
            _WEBHOOK,
            _PAGE,
            _LIMIT,
            _CURSOR,
            Param(name="state", schema={"enum": list(delivery.STATES)}),
            Param(name="type", schema={"enum": [*sorted(delivery.TYPES), delivery.TEST_TYPE]}),
        ),
        replies=(Reply(about="a page", body=webhooks.DeliveryOut, frame="list"),),
        refusals=(404, 422),
    ),
    Operation(
        method="POST",
        path="/api/webhooks/{webhook_id}/replay",
        name="postWebhookReplay",
        tag="webhooks",
        summary="Deliver once more: one, or all of a time",
        about="With the same ids and bodies. What is still on its way is not doubled.",
        auth="A",
        params=(_WEBHOOK,),
        body=webhooks.ReplayIn,
        replies=(Reply(status=202, about="they are under way", body=webhooks.ReplayOut),),
        refusals=(404, 409, *_BODY),
    ),
    Operation(
        method="POST",
        path="/api/webhooks/{webhook_id}/test",
        name="postWebhookTest",
        tag="webhooks",
        summary="Send `webhook.test` now, once",
        auth="A",
        params=(_WEBHOOK,),
        replies=(Reply(about="what came back", body=webhooks.TestOut),),
        refusals=(404, 503),
    ),
    Operation(
        method="GET",
        path="/api/sync/status",
        name="getSyncStatus",
        tag="sync queue",
        summary="How many deliveries there are",
        auth="A",
        replies=(Reply(about="by state", body=sync.QueueOut),),
    ),
    Operation(
        method="POST",
        path="/api/sync/process",
        name="postSyncProcess",
        tag="sync queue",
        summary="Give what is due its turn now, and wait for it",
        about="For a cron job: `x-cron-secret` is the setting `cron_secret`. At most 25 s.",
        auth="P",
        params=(Param(name="x-cron-secret", place="header", required=True),),
        replies=(Reply(about="how many had their turn, and the queue after it", body=sync.ProcessOut),),
        refusals=(401, 503),
    ),
    Operation(
        method="GET",
        path="/api/sync/health",
        name="getSyncHealth",
        tag="sync queue",
        summary="How deliveries fared in the last 24 hours",
        auth="A",
        replies=(Reply(about="the health", body=sync.SyncHealthOut),),
    ),
)
