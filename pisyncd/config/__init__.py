"""The configuration: one YAML file, read strictly; every problem has file, line, key and what is allowed."""

from __future__ import annotations

from pisyncd.config.advice import advice
from pisyncd.config.identity import (
    accept_own_token,
    configured_token,
    default_device_id,
    first_token,
    forget_token,
    own_token,
    read_fleet_key,
    read_secret_line,
    read_token,
    store_token,
)
from pisyncd.config.loading import load
from pisyncd.config.problems import InvalidConfig, Problem
from pisyncd.config.schema import (
    Backoff,
    Cloud,
    Config,
    Disk,
    Gateway,
    Intake,
    Log,
    Messages,
    Probe,
    Settle,
    Stop,
    Sync,
    Transfer,
    Watchdog,
    WatchRoot,
)

__all__ = [
    "Backoff",
    "Cloud",
    "Config",
    "Disk",
    "Gateway",
    "Intake",
    "InvalidConfig",
    "Log",
    "Messages",
    "Probe",
    "Problem",
    "Settle",
    "Stop",
    "Sync",
    "Transfer",
    "WatchRoot",
    "Watchdog",
    "accept_own_token",
    "advice",
    "configured_token",
    "default_device_id",
    "first_token",
    "forget_token",
    "load",
    "own_token",
    "read_fleet_key",
    "read_secret_line",
    "read_token",
    "store_token",
]
