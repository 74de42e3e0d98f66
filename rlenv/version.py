"""The version of rlenv, said here alone: ``pyproject.toml`` and the provenance of every episode read it."""

__version__ = "0.1.0"
