"""What can go wrong, and what happens next.

PiSyncError                    code, hint, detail
├── TransientError             try again later (retry_after_s)
│   ├── LinkDown               no proven answer from our cloud
│   │   └── WaitCut            a request that was to be held ended early: says nothing of the link
│   ├── CloudBusy              our cloud answered 408, 425, 429 or 5xx
│   ├── StorageBusy            disk full or outbox locked, here or in the cloud
│   └── TokenRefused           our cloud does not know this device's token
├── OffsetMismatch             not a failure: the cloud's offset is the truth
├── UploadGone                 not a failure: the cloud no longer knows the upload, create it anew
├── CursorExpired              not a failure: the cloud cannot go on from this cursor, fetch all anew
├── PermanentError             this item will not pass as it is; others go on
│   ├── SourceGone
│   ├── SourceChanged
│   ├── SourceUnreadable
│   ├── Rejected               our cloud refused it for good
│   └── TooLarge
└── FatalError                 the process ends with exit_code
    ├── ConfigError            78
    ├── SchemaTooNew           78
    ├── StateUnusable          75
    └── AlreadyRunning         75

The docstring of a class is its default message. `code` is stable and written in kebab-case; `hint` says what a
person does next.
"""

from __future__ import annotations

import inspect


class PiSyncError(Exception):
    """Something went wrong."""

    code = "error"
    hint = ""

    def __init__(self, detail: str | None = None, *, code: str | None = None, hint: str | None = None) -> None:
        self.detail = detail or inspect.cleandoc(type(self).__doc__ or "").splitlines()[0]
        self.code = code or type(self).code
        self.hint = hint if hint is not None else type(self).hint
        super().__init__(self.detail)


class TransientError(PiSyncError):
    """It did not work this time."""

    code = "transient"

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after_s: float | None = None,
        code: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(detail, code=code, hint=hint)
        self.retry_after_s = retry_after_s


class LinkDown(TransientError):
    """The cloud could not be reached."""

    code = "link-down"
    hint = "check the network cable, the Wi-Fi or the hotspot; sending goes on by itself when the link is back"

    def __init__(self, detail: str | None = None, *, portal_url: str | None = None, **more: str | None) -> None:
        super().__init__(detail, **more)  # type: ignore[arg-type]
        self.portal_url = portal_url


class WaitCut(LinkDown):
    """Something on the way ended a request that the cloud was holding."""

    code = "wait-cut"
    hint = "nothing to do; proxies and routers end connections that are quiet, the next wait is shorter"


class CloudBusy(TransientError):
    """The cloud asks to come back later."""

    code = "cloud-busy"
    hint = "nothing to do here; the operator of the cloud can see why"


class StorageBusy(TransientError):
    """There is no room or the storage is locked."""

    code = "storage-busy"
    hint = "free some space; sending goes on by itself when there is room"


class TokenRefused(TransientError):
    """The cloud does not know this device's token."""

    code = "token-refused"
    hint = "enroll the device again with `pisync-cloud enroll`, put the token into the token file and reload"


class OffsetMismatch(PiSyncError):
    """The cloud holds another offset."""

    code = "offset-mismatch"

    def __init__(self, offset: int) -> None:
        super().__init__(f"the cloud holds {offset} bytes")
        self.offset = offset


class UploadGone(PiSyncError):
    """The cloud no longer knows this upload."""

    code = "upload-gone"


class CursorExpired(PiSyncError):
    """The cloud cannot tell what has changed since this cursor."""

    code = "cursor-expired"


class PermanentError(PiSyncError):
    """This cannot be sent as it is."""

    code = "permanent"


class SourceGone(PermanentError):
    """The file is no longer there."""

    code = "source-gone"
    hint = "nothing to do if it was deleted on purpose; otherwise put it back"


class SourceChanged(PermanentError):
    """The file changed while it was read."""

    code = "source-changed"
    hint = "nothing to do; it is sent when it is quiet"


class SourceUnreadable(PermanentError):
    """The file cannot be read."""

    code = "source-unreadable"
    hint = "let the user pisync read it, or exclude it"


class Rejected(PermanentError):
    """The cloud refused it for good."""

    code = "rejected"
    hint = "see the detail; `pisyncctl retry` sends it again"


class TooLarge(PermanentError):
    """It is larger than the limit."""

    code = "upload-too-large"
    hint = "raise transfer.upload_bytes_max here and the limit in the cloud, or exclude the file"


class FatalError(PiSyncError):
    """PiSync cannot go on."""

    code = "fatal"
    exit_code = 70


class ConfigError(FatalError):
    """The configuration is not valid."""

    code = "config-invalid"
    exit_code = 78


class SchemaTooNew(FatalError):
    """The database was written by a newer PiSync."""

    code = "schema-too-new"
    hint = "install the newer PiSync again; the database is left as it is"
    exit_code = 78


class StateUnusable(FatalError):
    """The state directory cannot be written."""

    code = "state-unusable"
    hint = "free some space on its disk, or let the user pisync write there; systemd tries again by itself"
    exit_code = 75


class AlreadyRunning(FatalError):
    """Another pisyncd uses the same state directory."""

    code = "already-running"
    hint = "stop it first (`systemctl stop pisyncd`), or use pisyncctl"
    exit_code = 75
