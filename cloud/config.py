"""Settings of the cloud: defaults, then a YAML file, then PISYNC_CLOUD_* in the environment, then flags.

Every scalar of the YAML file is taken as text and converted by the setting's type, so that YAML 1.1's surprises
(`no`, `010`, `12:30:00`) cannot change a meaning; a repeated or unknown key is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from pisyncd.core.errors import ConfigError

ENVIRONMENT_PREFIX = "PISYNC_CLOUD_"

Positive = Annotated[int, Meta(ge=1)]
Percent = Annotated[float, Meta(ge=0, le=100)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting with its default. `_s` is seconds, `_bytes` is bytes."""

    data: Annotated[str, Meta(min_length=1)] = "/var/lib/pisync-cloud"
    database: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    open_dashboard: bool = False
    drain_s: Annotated[float, Meta(ge=0, le=600)] = 30.0
    body_bytes_max: Positive = 8 * 1024 * 1024
    body_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    upload_bytes_max: Positive = 256 * 1024**3
    upload_keep_s: Positive = 60 * 24 * 3600
    free_floor_bytes: Annotated[int, Meta(ge=0)] = 64 * 1024**2
    upload_stall_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    failures_notify: Positive = 3
    failures_listed_above: Annotated[int, Meta(ge=0)] = 3
    rate_device_items: Annotated[int, Meta(ge=0)] = 300_000
    rate_user_items: Annotated[int, Meta(ge=0)] = 6_000
    jwt_secret: str = ""
    jwt_secret_file: str = ""
    jwt_jwks: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    browser_origins: str = ""
    record_types_file: str = ""
    session_expiry_s: Annotated[float, Meta(ge=1, le=600)] = 20.0
    sync_interval_s: Annotated[int, Meta(ge=60, le=3600)] = 300
    export_dir: str = ""
    export_interval_s: Annotated[int, Meta(ge=60, le=86_400)] = 3600
    export_rows_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 500_000
    telemetry_keep_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    webhook_allow: str = ""
    webhook_timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 10.0
    webhook_keep_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    webhook_secret: str = ""
    webhook_secret_file: str = ""
    webhook_secret_previous: str = ""
    webhook_tolerance_s: Annotated[int, Meta(ge=1, le=86_400)] = 300
    public_url: str = ""
    timezone: str = "UTC"
    calendar_file: str = ""
    fresh_minutes: Positive = 60
    stale_minutes: Positive = 180
    quiet_after_s: Annotated[int, Meta(ge=3600, le=30 * 86_400)] = 86_400
    overdue_percent: Annotated[float, Meta(gt=0, le=50)] = 1
    recovering_above: Positive = 50
    transition_keep_days: Annotated[int, Meta(ge=1, le=3650)] = 93
    notify_gather_s: Annotated[int, Meta(ge=0, le=3600)] = 60
    notify_together_min: Annotated[int, Meta(ge=2)] = 5
    notify_together_percent: Percent = 20
    notify_timeout_s: Annotated[float, Meta(gt=0, le=120)] = 20
    login_s: Annotated[int, Meta(ge=300, le=30 * 86_400)] = 12 * 3600
    enroll_code_s: Annotated[int, Meta(ge=60, le=90 * 86_400)] = 7 * 86_400
    token_rotate_days: Annotated[int, Meta(ge=0, le=3650)] = 0
    rate_address_requests: Annotated[int, Meta(ge=0)] = 60_000
    rate_device_requests: Annotated[int, Meta(ge=0)] = 6_000
    rate_login: Positive = 10
    rate_storage: str = ""
    trusted_proxies: str = ""
    trace_endpoint: str = ""
    cron_secret: str = ""
    cron_secret_file: str = ""
    tombstone_keep_days: Annotated[int, Meta(ge=30, le=3650)] = 456
    metrics_open: bool = True
    alert_queue_items: Positive = 500
    alert_device_queue_items: Positive = 500
    alert_success_percent: Percent = 95
    alert_sync_s: Annotated[float, Meta(gt=0, le=3600)] = 10
    alert_conflicts_percent: Percent = 10
    alert_rejections_percent: Percent = 5
    alert_insert_failures_percent: Percent = 1
    alert_batch_items_min: Annotated[float, Meta(ge=0, le=500)] = 2
    alert_batch_items_max: Annotated[float, Meta(ge=1, le=500)] = 400
    alert_window_s: Annotated[float, Meta(ge=60, le=3600)] = 300
    alert_for_s: Annotated[float, Meta(ge=0, le=86_400)] = 300
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: Literal["all", "problems", "off"] = "all"
    log_format: Literal["json", "console"] = "json"

    @property
    def database_url(self) -> str:
        """The database in use: `database`, or the SQLite file in `data`."""
        return self.database or str(Path(self.data) / "pisync.db")

    @property
    def origins(self) -> frozenset[str]:
        """`browser_origins` one by one: 'https://a.example,https://b.example'."""
        return frozenset(filter(None, (each.strip().rstrip("/") for each in self.browser_origins.split(","))))

    @property
    def blobs(self) -> Path:
        """Where contents and unfinished uploads are kept."""
        return Path(self.data) / "blobs"


class _TextLoader(yaml.BaseLoader):
    """All scalars as text, repeated keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key!r} is repeated or not text", hint="keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a YAML file, still as text. Raises ConfigError."""
    try:
        loaded = yaml.load(path.read_text("utf-8"), Loader=_TextLoader)  # noqa: S506 - a BaseLoader builds only text
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.detail}", hint=error.hint) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}", hint="it has to be readable YAML in UTF-8") from error
    if loaded is None or loaded == "":
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: settings are `name: value` lines")
    return loaded


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """PISYNC_CLOUD_PORT=8080 -> {'port': '8080'}; PISYNC_CLOUD_CONFIG names the file and is no setting."""
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name != f"{ENVIRONMENT_PREFIX}CONFIG"
    }


def _allowed(name: str) -> str:
    kinds = {field.name: field for field in msgspec.structs.fields(Settings)}
    if name not in kinds:
        return "known settings: " + ", ".join(sorted(kinds))
    schema = msgspec.json.schema(kinds[name].type)
    limits = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "enum": "one of"}
    parts = [str(schema.get("type", ""))] + [f"{word} {schema[key]}" for key, word in limits.items() if key in schema]
    return f"allowed for {name}: {', '.join(part for part in parts if part)}"


def convert(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Checks and converts settings one by one, so that every fault is named at once. Raises ConfigError."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name, text in raw.items():
        if name not in kinds:
            faults.append(f"{source}: unknown setting {name!r}")
            continue
        try:
            values[name] = msgspec.convert(text, kinds[name], strict=False)
        except msgspec.ValidationError as error:
            faults.append(f"{source}: {name} = {text!r}: {error}; {_allowed(name)}")
    if faults:
        raise ConfigError("; ".join(faults), hint=_allowed(""))
    return values


def load(*, flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None) -> Settings:
    """The settings in force. Raises ConfigError naming the source, the setting and what is allowed."""
    if file is None and f"{ENVIRONMENT_PREFIX}CONFIG" in environment:
        file = Path(environment[f"{ENVIRONMENT_PREFIX}CONFIG"])
    values: dict[str, Any] = {}
    if file is not None:
        values |= convert(read_file(file), str(file))
    values |= convert(from_environment(environment), "environment")
    values |= convert({name: value for name, value in flags.items() if value is not None}, "command line")
    return Settings(**values)
