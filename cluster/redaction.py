"""Redaction: replaces what identifies a person, a machine or a secret in a text; the same thing by the same name.

Pure. It replaces more than it must: a word that happens to be the user's name is replaced too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

SECRET = "<secret>"
USER = "USER"

_SECRETS = (
    r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:[A-Za-z0-9+/=\s]|\\n)*(?:-----END [A-Z0-9 ]{1,40}-----)?",
    r"\bMC1[0-9A-Za-z:_-]{8,}",  # a join token
    r"\bmoe-[0-9A-Za-z_-]{43}(?![0-9A-Za-z_-])",  # an API key of the gateway
    r"\bhf_[0-9A-Za-z]{8,}",  # of the Hugging Face hub
    r"\bsk-[0-9A-Za-z_-]{8,}",  # an API key of others
    r"(?i:(?<=bearer )|(?<=token=)|(?<=api_key=)|(?<=password=))[^\s&\"']+",
)
_EMAIL = r"\b[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"
_HARDWARE = r"(?<![\w:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])"
_IPV4 = r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)"
_IPV6 = r"(?:(?<=%5B)|(?<![\w:.]))(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![\w:])"


class Redaction:
    """Redacts texts of one machine or cluster.

    `paths` are replaced by what they stand for, `user` and `hosts` (names of machines) as whole words. With
    `addresses`, IP and hardware addresses and mail addresses are replaced too.
    """

    def __init__(
        self, paths: Mapping[str, str], user: str, hosts: Iterable[str] = (), *, addresses: bool = False
    ) -> None:
        self._paths = {path.rstrip("/"): name for path, name in paths.items() if len(path.rstrip("/")) > 1}
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        hosts = {host.lower() for host in hosts if host}
        kinds = {
            "secret": "|".join(_SECRETS),
            "path": _any_of(self._paths, r"(?![\w-])"),
            "email": _EMAIL if addresses else "",
            "hardware": _HARDWARE if addresses else "",
            "ip": f"{_IPV6}|{_IPV4}" if addresses else "",
            "host": _any_of(hosts, r"(?![\w-])", r"(?<![\w-])(?i:", r")"),
            "user": _any_of({user} - {"", "root"}, r"(?![A-Za-z0-9])", r"(?<![A-Za-z0-9])"),
        }
        self._pattern = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in kinds.items() if pattern))

    def text(self, text: str) -> str:
        """Return a text without them."""
        return self._pattern.sub(self._name, text)

    def _name(self, match: re.Match[str]) -> str:
        found = match[0]
        match match.lastgroup:
            case "secret":
                return SECRET
            case "user":
                return USER
            case "path":
                return self._paths[found]
            case "ip":
                return self._ip_name(found)
            case kind:
                return self._numbered(str(kind), found.lower())

    def _ip_name(self, text: str) -> str:
        try:
            ip = ipaddress.ip_address(text)
        except ValueError:
            return text  # such as a time of day
        if ip.is_loopback or ip.is_unspecified or ip.is_multicast:
            return text
        kind = "link-local" if ip.is_link_local else "private" if ip.is_private else "public"
        return self._numbered(f"{kind}-ip", str(ip))

    def _numbered(self, kind: str, found: str) -> str:
        if found not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[found] = f"{kind}-{self._counts[kind]}"
        return self._names[found]


def _any_of(words: Iterable[str], after: str, before: str = "", close: str = "") -> str:
    """Return a pattern for the longest of the words, "" if there are none."""
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return f"{before}(?:{alternatives}){close}{after}" if alternatives else ""
