"""What a learning event must not carry: names, contacts, addresses, free text, question text.

By key, in any spelling (`firstName`, `first_name`, `FIRST-NAME`) and depth, and by shape of the values. Collected are
ids, indexes, numbers and short words; see "Data Minimization" in docs/learning-events.md.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Any

TEXT_MAX = 200
DEPTH_MAX = 8
NODES_MAX = 2000

_WORDS = """
    name names firstname lastname middlename fullname surname givenname familyname displayname nickname username
    loginname screenname realname maidenname studentname learnername childname pupilname teachername parentname
    guardianname mothername fathername contactname
    email emails emailaddress mail mailaddress contact contacts phone phones phonenumber telephone tel mobile
    mobilenumber cellphone msisdn whatsapp fax
    address addresses homeaddress postaladdress street streetaddress housenumber postcode postalcode zipcode village
    birthdate birthday dateofbirth dob nationalid ssn passport passportnumber idcard taxid
    ip ipaddress ipv4 ipv6 remoteaddr clientip macaddress imei deviceserial latitude longitude lat lon lng gps geo
    geolocation password passwd secret
    questiontext question stem prompt questionstem options optiontext optiontexts answertext freetext essay transcript
    comment comments message photo picture avatar
"""
KEYS = frozenset(_WORDS.split())

_SEPARATORS = re.compile(r"[^a-z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_EMAIL = re.compile(r"[^\s@<>\"]{1,64}@[^\s@<>\"]{1,190}\.[A-Za-z]{2,24}")
# A number with a + or with separators; a plain run of digits is an id or a time.
_PHONE = re.compile(r"(?<![\w.:+-])(?:\+\d[\d ()./-]{6,20}\d|\(?0\d{1,4}\)?[ ./-]\d{2,4}[ ./-]?\d{2,6})(?![\w:])")
_IPV4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])")
_MAC = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}(?![\w:])")
_PHONE_DIGITS_MIN = 9  # fewer are dates and chapters: 03-04-2026


@lru_cache(maxsize=4096)
def is_personal_key(key: str) -> bool:
    """'firstName' -> True; 'mode' -> False. The last word of a compound counts: 'user_email' -> True."""
    words = [word for word in _SEPARATORS.split(_CAMEL.sub("_", key).lower()) if word]
    plain = "".join(words)
    return plain in KEYS or any("".join(words[-size:]) in _ENDINGS for size in (1, 2) if len(words) > size)


_ENDINGS = KEYS - {"name", "names", "message", "contact", "options", "question", "comments", "lat", "lon", "tel", "ip"}


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
                if is_personal_key(key):
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
    if "@" in text and _EMAIL.search(text):
        return "an e-mail address"
    if ":" in text and any(_is_ipv6(word) for word in text.split()):
        return "an IP address"
    if _MAC.search(text):
        return "a hardware address"
    if "." in text and _IPV4.search(text):
        return "an IP address"
    if any(sum(map(str.isdigit, found)) >= _PHONE_DIGITS_MIN for found in _PHONE.findall(text)):
        return "a phone number"
    return None


def _is_ipv6(word: str) -> bool:
    if word.count(":") < 2:
        return False
    try:
        ipaddress.IPv6Address(word.strip("[](),;."))
    except ValueError:
        return False
    return True
