"""What the calls that answer can raise. Recording an event never raises."""

from __future__ import annotations


class ClientError(Exception):
    """A call was not answered as asked.

    `code` is stable (kebab-case), `detail` says what happened, `hint` what to do next; `status` is the HTTP status,
    None when nobody answered; `retryable` tells whether the same call may succeed later.
    """

    def __init__(
        self, code: str, detail: str = "", hint: str = "", *, status: int | None = None, retryable: bool = False
    ) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.status = status
        self.retryable = retryable
