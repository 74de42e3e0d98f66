"""Where an endpoint is, and what its settings may not hold: conversations leave the machine only where allowed.

Keys are never part of settings, which are saved with a run; they name the environment variable that holds one.
"""

from __future__ import annotations

import ipaddress
import platform
import re
from urllib.parse import urlsplit

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_outside(base_url: str) -> bool:
    """Returns whether an endpoint is on another machine.

    >>> is_outside("http://localhost:8000/v1"), is_outside("http://[::1]:8000"), is_outside("https://api.example.com/v1")
    (False, False, True)
    """
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    if host in ("localhost", platform.node().lower()) or host.endswith(".localhost"):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    return not (address.is_loopback or address.is_unspecified)


def consent_problems(base_url: str | None, allow_external: bool) -> list[str]:
    """Returns a problem where an endpoint is outside the machine and that is not allowed."""
    if base_url is None or allow_external or not is_outside(base_url):
        return []
    return [
        f"allow_external: {urlsplit(base_url).hostname} is not this machine, and gets whole conversations; set it to "
        "true (for a command: --allow-external) if they may go there"
    ]


def secret_problems(base_url: str | None, key_env: str | None) -> list[str]:
    """Returns the places of settings that seem to hold a key, which would be saved with a run; without the key."""
    problems = []
    if key_env is not None and not VARIABLE.fullmatch(key_env):
        problems.append(
            "api_key_env: expected the name of the environment variable that holds the key, got text of "
            f"{len(key_env)} characters that is no such name; never write the key itself"
        )
    try:
        parts = urlsplit(base_url or "")
        has_secret = bool(parts.password or parts.username) or bool(re.search(r"key|token|secret", parts.query, re.I))
    except ValueError:
        has_secret = False
    if has_secret:
        problems.append("base_url: has a user, password or key in it; give the key by api_key_env")
    return problems
