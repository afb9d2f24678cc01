"""What a password has to be: long. NIST SP 800-63B: no rules of composition, no expiry."""

from __future__ import annotations

CHARS_MIN = 12
CHARS_MAX = 256
DIFFERENT_MIN = 5


def fault(password: str, name: str) -> str | None:
    """Why this cannot be the password of `name`; None when it can."""
    if len(password) < CHARS_MIN:
        return f"a password has at least {CHARS_MIN} characters"
    if len(password) > CHARS_MAX:
        return f"a password has at most {CHARS_MAX} characters"
    if len(set(password)) < DIFFERENT_MIN:
        return f"a password has at least {DIFFERENT_MIN} different characters"
    if name.lower() in password.lower() and len(password) < CHARS_MIN + len(name):
        return "a password is more than the name"
    return None
