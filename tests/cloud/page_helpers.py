"""A page as tests look at it: whole, shut to what is foreign, with links, forms and labels; and who is signed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import aiohttp
from conftest import Cloud

VOID = {"meta", "link", "input", "br", "img", "hr"}
INLINE = {"b", "code", "span", "a", "time"}
QUIET = {"hidden", "submit", "button"}


@dataclass
class Form:
    """A form of a page: where it goes and what it would send untouched."""

    method: str
    action: str
    fields: dict[str, list[str]] = field(default_factory=dict)
    buttons: int = 0

    def filled(self, **values: Any) -> list[tuple[str, str]]:
        """What it sends with some fields filled in; a list stands for several values."""
        sent = {
            **self.fields,
            **{name: value if isinstance(value, list) else [value] for name, value in values.items()},
        }
        return [(name, str(value)) for name, several in sent.items() for value in several]


class Checker(HTMLParser):
    """Fails on tags that do not match, on inline scripts and styles, and on anything from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.forms: list[Form] = []
        self.labels: set[str] = set()
        self.unlabelled: list[str] = []
        self.secrets: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._select = ""
        self._loose: list[tuple[str, str]] = []

    @classmethod
    def read(cls, text: str) -> Checker:
        """A whole page."""
        checker = cls()
        checker.feed(text)
        checker.close()
        assert checker.open == []
        assert len(checker.ids) == len(set(checker.ids)), sorted(checker.ids)
        checker.unlabelled += [name for name, key in checker._loose if key not in checker.labels]
        return checker

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.tags.add(tag)
        assert tag not in ("style", "iframe", "object", "base")
        assert tag != "script" or (held.get("src") or "").startswith("/assets/")
        assert "style" not in held
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("href", "src", "action"):
                assert value is not None
                assert value.startswith(("/", "#", "data:image/"))
                assert not value.startswith("//")
                self.links.append(value)
        if "id" in held:
            self.ids.append(held["id"] or "")
        if tag == "label" and held.get("for"):
            self.labels.add(held["for"] or "")
        self.text += "" if tag in INLINE else " "
        if tag == "code" and held.get("class") == "secret":
            self.secrets.append("")
        self._in_form(tag, held)
        if tag not in VOID:
            self.open.append(tag)

    def _in_form(self, tag: str, held: dict[str, str | None]) -> None:
        if tag == "form":
            self.forms.append(Form(method=(held.get("method") or "get").lower(), action=held.get("action") or ""))
        if tag not in ("input", "select", "textarea", "button", "option") or "form" not in self.open:
            return
        form, name, kind = self.forms[-1], held.get("name") or "", held.get("type") or "text"
        if tag == "button":
            form.buttons += 1
            if name:
                return
        told = "label" in self.open or bool(held.get("aria-label"))
        if tag in ("input", "select", "textarea") and kind not in QUIET and not told:
            self._loose.append((name, held.get("id") or ""))
        if tag == "input" and name and (kind not in ("checkbox", "radio") or "checked" in held):
            form.fields.setdefault(name, []).append(held.get("value") or "")
        if tag == "select":
            self._select = name
        if tag == "textarea":
            form.fields[name] = [""]
        if tag == "option" and ("selected" in held or self._select not in form.fields):
            form.fields[self._select] = [held.get("value") or ""]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.secrets and self.open[-1] == "code":
            self.secrets[-1] += data
        if self.open and self.open[-1] == "textarea":
            name = list(self.forms[-1].fields)[-1]
            self.forms[-1].fields[name] = [(self.forms[-1].fields[name][0] + data).removeprefix("\n")]
        assert not (self.open and self.open[-1] == "script")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def form(self, action: str, **fields: Any) -> Form:
        """The one form that posts to `action` and has these fields so."""
        wanted = {name: [str(value)] for name, value in fields.items()}
        found = [
            each
            for each in self.forms
            if each.method == "post"
            and each.action == action
            and all(each.fields.get(name) == value for name, value in wanted.items())
        ]
        assert len(found) == 1, (action, fields, [(each.action, each.fields) for each in self.forms])
        return found[0]

    @property
    def posts(self) -> list[Form]:
        """What changes something."""
        return [each for each in self.forms if each.method == "post"]


@dataclass(kw_only=True)
class Person:
    """Somebody who is signed in, with a browser that does not follow redirects by itself."""

    cloud: Cloud
    http: aiohttp.ClientSession
    name: str
    cookie: str

    async def get(self, path: str, status: int = 200) -> Checker:
        """A page, checked, with the headers that every page has."""
        async with self.http.get(self.cloud.url + path, allow_redirects=False) as answer:
            return await self._checked(answer, path, status)

    async def _checked(self, answer: aiohttp.ClientResponse, path: str, status: int) -> Checker:
        text = await answer.text()
        assert answer.status == status, (path, answer.status, text)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        checker = Checker.read(text)
        assert checker.unlabelled == [], (path, checker.unlabelled)
        return checker

    async def send(self, form: Form, **values: Any) -> str:
        """Sends a form that leads on to another page; gives where."""
        async with self.http.post(
            self.cloud.url + form.action, data=form.filled(**values), allow_redirects=False
        ) as answer:
            assert answer.status == 303, (form.action, answer.status, await answer.text())
            return answer.headers["Location"]

    async def shown(self, form: Form, status: int = 200, **values: Any) -> Checker:
        """Sends a form that is answered by a page."""
        async with self.http.post(
            self.cloud.url + form.action, data=form.filled(**values), allow_redirects=False
        ) as answer:
            return await self._checked(answer, form.action, status)


async def person(cloud: Cloud, role: str = "admin", group: str | None = None) -> Person:
    """A new operator of a role, everywhere or for a group; `await it.http.close()` at the end."""
    name, _ = await cloud.operator(role, group)
    cookie = await cloud.services.identity.begin_session(name, 3600)
    http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), cookies={"pisync_session": cookie})
    return Person(cloud=cloud, http=http, name=name, cookie=cookie)
