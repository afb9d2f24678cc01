"""What a learning event must not carry: names, contacts, addresses, free text, question text.

By key, in any spelling (`firstName`, `first_name`, `FIRST-NAME`) and depth, and by shape of the values. Collected are
ids, indexes, numbers and short words; see "Data Minimization" in docs/learning-events.md.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

TEXT_MAX = 200
DEPTH_MAX = 8
NODES_MAX = 2000

#: A key with one of these among its words, in any spelling, names personal data.
_STRONG = frozenset(
    """
    email emails mail mails phone phones telephone telephones mobile msisdn whatsapp cellphone fax surname surnames
    firstname lastname fname lname middlename fullname realname nickname username loginname displayname maidenname
    givenname familyname screenname address addresses street postcode zipcode housenumber village birthdate birthday
    birth dob nationalid ssn passport idcard taxid ip ipaddress ipaddr ipv4 ipv6 macaddress imei latitude longitude lng
    gps geolocation password passwords passwd secret cookie useragent photo picture avatar
    """.split()  # noqa: SIM905 - a list of a hundred words reads better so
)
#: Personal when the key consists of them alone.
_WHOLE = frozenset({"name", "names", "contact", "contacts", "lat", "lon", "tel", "geo", "postal", "token", "login"})
#: `name` beside one of these is a person's.
_PERSONS = frozenset(
    """
    student learner child pupil teacher parent guardian mother father user contact full first last middle given family
    display nick maiden real legal login screen person owner author
    """.split()  # noqa: SIM905
)
#: Free text and questions: only what is text or holds some, not a number or a flag of that name.
_TEXT = frozenset(
    """
    question questions questiontext questionstem questionbody stem prompt prompttext options option optiontext
    optiontexts answertext freetext essay essaytext transcript comment comments message
    """.split()  # noqa: SIM905
)

_SEPARATORS = re.compile(r"[^a-z0-9]+")
_DIGITS = re.compile(r"(?<=[a-z])[0-9]+$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=[A-Z][a-z])")
_EMAIL = re.compile(r"[^\s@<>\"]{1,64}(?:@|%40)[^\s@<>\"]{1,190}\.\w{2,24}")
# A number with a + or with separators; a plain run of digits is an id or a time, unless it is dialled from 0.
_PHONE = re.compile(
    r"(?<![\w.])(?:\+\d[\d ()./-]{6,20}\d|\(?0[1-9]\d{0,3}\)?[ ./-]\d{2,4}[ ./-]?\d{2,6}"
    r"|\(?\d{3}\)?[ -]\d{3}-\d{4})(?![\w:-])"
    r"|^0{1,2}[1-9]\d{8,13}$"
)
_IPV4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|[01]?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|[01]?\d?\d)(?![\w.])")
_MAC = re.compile(
    r"(?<![\w:])(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}(?![\w:])|(?<!\w)(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}(?!\w)"
)
_IPV6_ENDS = re.compile(r"[\s=,;()\[\]/]+")
_PHONE_DIGITS_MIN = 9  # fewer are dates and chapters: 03-04-2026


@lru_cache(maxsize=4096)
def key_kind(key: str) -> Literal["personal", "text", ""]:
    """'firstName', 'user_email2', 'nameOfStudent' -> 'personal'; 'question_text' -> 'text'; 'moduleName' -> ''."""
    plain_key = unicodedata.normalize("NFKC", key)
    words = [word for word in _SEPARATORS.split(_CAMEL.sub("_", plain_key).lower()) if word]
    words = [_DIGITS.sub("", word) if word not in ("ipv4", "ipv6") else word for word in words if not word.isdigit()]
    pairs = [*words, *(a + b for a, b in pairwise(words)), "".join(words)]
    if any(word in _STRONG for word in pairs) or "".join(words) in _WHOLE:
        return "personal"
    if any(word in ("name", "names") for word in words) and _PERSONS.intersection(words):
        return "personal"
    return "text" if "".join(words) in _TEXT or any(word in _TEXT for word in pairs[len(words) : -1]) else ""


def personal(value: Any) -> tuple[str, str] | None:
    """(JSON pointer, reason) of the first thing in decoded JSON that may not travel, or None."""
    budget = NODES_MAX
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        place, node, depth = waiting.pop()
        budget -= 1
        if budget < 0 or depth > DEPTH_MAX:
            return place, "nested too deeply or too large to be looked through"
        if isinstance(node, str):
            if reason := _shape(node):
                return place, reason
        elif isinstance(node, dict):
            for key, inner in node.items():
                kind = key_kind(key)
                if (kind == "personal" and not isinstance(inner, bool | None)) or (
                    kind == "text" and inner and isinstance(inner, str | dict | list)
                ):
                    return f"{place}/{key[:64]}", "the key names personal data or free text"
                if reason := _shape(key):
                    return f"{place}/{key[:64]}", f"as a key: {reason}"
                if isinstance(inner, str | dict | list):
                    waiting.append((f"{place}/{key[:64]}", inner, depth + 1))
        elif isinstance(node, list):
            waiting += [
                (f"{place}/{index}", inner, depth + 1)
                for index, inner in enumerate(node)
                if isinstance(inner, str | dict | list)
            ]
    return None


def _shape(text: str) -> str | None:
    if len(text) > TEXT_MAX:
        return f"text of more than {TEXT_MAX} characters"
    if not text.isascii():
        # A wide @ or digit of another script is as good as a plain one.
        text = unicodedata.normalize("NFKC", text)
    if ("@" in text or "%40" in text) and _EMAIL.search(text):
        return "an e-mail address"
    if ":" in text and any(_is_ipv6(word) for word in _IPV6_ENDS.split(text)):
        return "an IP address"
    if _MAC.search(text):
        return "a hardware address"
    if "." in text and _IPV4.search(text):
        return "an IP address"
    if any(sum(map(str.isdigit, found[0])) >= _PHONE_DIGITS_MIN for found in _PHONE.finditer(text)):
        return "a phone number"
    return None


def _is_ipv6(word: str) -> bool:
    # A word such as a::b is one as well, but nobody's: real ones have a group of three digits or more.
    if word.count(":") < 2 or max(map(len, word.split(":"))) < 3:
        return False
    try:
        ipaddress.IPv6Address(word.strip("."))
    except ValueError:
        return False
    return True
