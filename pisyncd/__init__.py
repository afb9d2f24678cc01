"""The device: watches learning data, keeps what it owes, sends it when it can, and reports."""

__version__ = "0.1.0"
