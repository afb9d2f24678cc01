"""The shape of the code: who may import whom, what is pure, what a wheel carries, what the repository never says."""

from __future__ import annotations

import ast
import codecs
import fnmatch
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Higher rows may import lower rows and their own, never the other way. The longest matching name counts.
LAYERS = {
    "pisyncd": 0,
    "pisyncd.core": 0,
    "pisyncd.config": 1,
    "pisyncd.log": 1,
    "pisyncd.runtime": 1,
    "pisyncd.outbox": 2,
    "pisyncd.sources": 2,
    "pisyncd.tcp": 2,
    "pisyncd.uplink": 2,
    "pisyncd.answers": 2,
    "pisyncd.holding": 2,
    "pisyncd.meters": 2,
    "pisyncd.renewing": 3,
    "pisyncd.enrolling": 3,
    "pisyncd.hardware": 2,
    "pisyncd.client": 2,
    "pisyncd.activities": 3,
    "pisyncd.gateway": 3,
    "pisyncd.device": 4,
    "pisyncd.parts": 4,
    "pisyncd.daemon": 4,
    "pisyncd.ctl": 4,
    "pisyncd.cli": 5,
    "pisyncd.__main__": 6,
    "cloud": 0,
    "cloud.rules": 0,
    "cloud.config": 1,
    "cloud.store": 1,
    "cloud.tracing": 1,
    "cloud.flows": 2,
    "cloud.services": 3,
    "cloud.api": 3,
    "cloud.dashboard": 3,
    "cloud.workers": 3,
    "cloud.app": 4,
    "cloud.main": 5,
    "cloud.verbs": 4,
    "cloud.enroll_verbs": 4,
    "cloud.fleet_verbs": 4,
    "cloud.notify_verbs": 4,
    "cloud.people_verbs": 4,
    "cloud.webhook_verbs": 4,
    "cloud.cli": 5,
    "cloud.__main__": 6,
}
PURE = ("pisyncd.core", "cloud.rules")
IMPURE_MODULES = {
    "asyncio", "aiohttp", "aiosqlite", "aiosql", "asyncinotify", "asyncpg", "http.client", "multiprocessing", "psutil",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess",
    "tempfile", "threading", "time", "urllib.request", "uuid",
}  # fmt: skip
IMPURE_CALLS = re.compile(
    r"^(open|input|print|exec|eval"
    r"|(datetime\.)?(datetime|date)\.(now|utcnow|today)"
    r"|random\.(?!Random$)\w+"
    r"|os\.(?!(fsencode|fsdecode|fspath)$|path\.(join|split|basename|dirname|normpath|isabs|splitext|commonpath)$).+"
    r"|.*\.(read_text|read_bytes|write_text|write_bytes|unlink|mkdir|rename|iterdir|resolve))$"
)
LEAN_EXTRAS = {"asyncpg", "aiohttp_jinja2", "jinja2"}


@dataclass(frozen=True, kw_only=True)
class Module:
    """One source file: its dotted name, and the names it imports with the line of each."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[tuple[str, int], ...]

    def where(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


def _dotted(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _type_checking_nodes(tree: ast.Module) -> set[int]:
    """Ids of the nodes that only a type checker sees: they name a type and import nothing when the program runs."""
    hidden: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            hidden.update(id(inner) for statement in node.body for inner in ast.walk(statement))
    return hidden


def _imports(tree: ast.Module, name: str, *, is_package: bool) -> Iterator[tuple[str, int]]:
    hidden = _type_checking_nodes(tree)
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if is_package else name.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


@cache
def modules() -> dict[str, Module]:
    found: dict[str, Module] = {}
    for package in ("pisyncd", "cloud"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            name = _dotted(path)
            imports = tuple(_imports(tree, name, is_package=path.name == "__init__.py"))
            found[name] = Module(name=name, path=path, tree=tree, imports=imports)
    return found


def _own(imported: str) -> str | None:
    """The module of ours behind an imported name: `pisyncd.core.wire.Stamp` is `pisyncd.core.wire`."""
    parts = imported.split(".")
    for length in range(len(parts), 0, -1):
        if (candidate := ".".join(parts[:length])) in modules():
            return candidate
    return None


def _layer(module: str) -> int:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (candidate := ".".join(parts[:length])) in LAYERS and (length > 1 or len(parts) == 1):
            return LAYERS[candidate]
    raise AssertionError(f"{module} has no place in LAYERS: say where it stands")


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_every_module_has_a_place() -> None:
    for name in modules():
        _layer(name)


def test_nothing_imports_upwards() -> None:
    wrong = [
        f"{module.where(line)} {module.name} imports {target}"
        for module in modules().values()
        for imported, line in module.imports
        if (target := _own(imported)) and target.split(".")[0] == module.name.split(".")[0]
        if _layer(target) > _layer(module.name)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_device_imports_nothing_of_the_cloud() -> None:
    wrong = [
        f"{module.where(line)} imports {imported}"
        for module in modules().values()
        if _within(module.name, "pisyncd")
        for imported, line in module.imports
        if imported.split(".")[0] in {"cloud", *LEAN_EXTRAS}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_cloud_imports_only_core_and_runtime_of_the_device() -> None:
    wrong = [
        f"{module.where(line)} imports {imported}"
        for module in modules().values()
        if _within(module.name, "cloud")
        for imported, line in module.imports
        if _within(imported, "pisyncd")
        and imported not in ("pisyncd", "pisyncd.__version__")
        and not (_within(imported, "pisyncd.core") or _within(imported, "pisyncd.runtime"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    graph = {
        name: {target for imported, _ in module.imports if (target := _own(imported)) and target != name}
        for name, module in modules().items()
    }
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, "import cycle: " + " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def _pure_modules() -> list[Module]:
    return [m for m in modules().values() if any(_within(m.name, package) for package in PURE)]


def test_decisions_are_pure() -> None:
    wrong: list[str] = []
    for module in _pure_modules():
        wrong += [
            f"{module.where(line)} imports {imported}"
            for imported, line in module.imports
            if any(_within(imported, impure) for impure in IMPURE_MODULES)
        ]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await):
                wrong.append(f"{module.where(node.lineno)} waits")
            elif isinstance(node, ast.Call) and IMPURE_CALLS.match(call := ast.unparse(node.func)):
                wrong.append(f"{module.where(node.lineno)} calls {call}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("call", "impure"),
    [
        ("open", True),
        ("datetime.now", True),
        ("datetime.datetime.now", True),
        ("random.random", True),
        ("random.Random", False),
        ("rng.uniform", False),
        ("os.stat", True),
        ("os.fsencode", False),
        ("path.read_bytes", True),
        ("entries.open_count", False),
    ],
)
def test_what_counts_as_impure(call: str, impure: bool) -> None:
    assert bool(IMPURE_CALLS.match(call)) is impure


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split(b"\0") if name and (path := ROOT / name.decode()).is_file()]


def _plain(rot13: str) -> str:
    """The forbidden words are kept turned by 13 letters, so that this file does not hold what it looks for."""
    return "|".join(re.escape(word) for word in codecs.decode(rot13, "rot13").split())


FORBIDDEN = {
    "a package host": _plain("clcv.bet clgubaubfgrq ertvfgel.acz aczwf. qro.qrovna cvjurryf."),
    "a path of somebody's machine": _plain("/jbex/ /ebbg/"),
    "who wrote it": rf"(?i)\b({_plain('pynhqr naguebcvp bcranv tcg-4 tcg-5 pungtcg pbcvybg yyz yynzn')})\b",
    "who wrote it, in short": rf"\b{_plain('NV')}\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_repository_speaks_of_pisync_alone(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    wrong = []
    for path in _tracked():
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if found := pattern.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number} {found.group()!r}")
    assert not wrong, "\n".join(wrong)


def _project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_folder_with_code_is_a_package() -> None:
    bare = {
        str(path.parent.relative_to(ROOT))
        for package in ("pisyncd", "cloud")
        for path in (ROOT / package).rglob("*.py")
        if not (path.parent / "__init__.py").is_file()
    }
    assert not bare, f"a wheel would leave these out, they have no __init__.py: {sorted(bare)}"


def test_a_wheel_carries_every_file_the_code_reads() -> None:
    """setuptools drops data files silently when no pattern names them; a missing .sql shows only after install."""
    setuptools = _project()["tool"]["setuptools"]  # type: ignore[index]
    patterns = setuptools["package-data"]["*"]
    packages = {path.parent for p in ("pisyncd", "cloud") for path in (ROOT / p).rglob("__init__.py")}
    left_out = []
    for path in _tracked():
        top = path.relative_to(ROOT).parts[0]
        if top not in ("pisyncd", "cloud") or path.suffix == ".py":
            continue
        owner = next(parent for parent in path.parents if parent in packages)
        relative = path.relative_to(owner).as_posix()
        specific = setuptools["package-data"].get(".".join(owner.relative_to(ROOT).parts), [])
        if not any(_glob_matches(relative, pattern) for pattern in [*patterns, *specific]):
            left_out.append(str(path.relative_to(ROOT)))
    assert not left_out, f"add patterns to [tool.setuptools.package-data]: {left_out}"


def _glob_matches(relative: str, pattern: str) -> bool:
    """Like setuptools: a `*` stays inside one folder, `**` crosses folders."""
    if "**" in pattern:
        return fnmatch.fnmatch(relative, pattern.replace("**/", "*"))
    return relative.count("/") == pattern.count("/") and fnmatch.fnmatch(relative, pattern)


def test_the_lock_names_versions_and_nothing_else() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    wrong = [
        line for line in lines if line and not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)
    ]
    assert not wrong, f"a lock with a place in it works on one machine only: {wrong}"
