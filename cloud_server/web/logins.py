"""The page's sessions by cookie, and the rate limit of password attempts. Pure."""

from __future__ import annotations

import hashlib
import secrets

#: Maximum seconds of a session.
SESSION_S = 12 * 3600.0
_MOST_SESSIONS = 64
#: Wrong passwords that may be tried at once, and the seconds after which one more may be tried.
_ATTEMPTS, _ATTEMPT_EVERY_S = 10, 6.0


class Logins:
    """Sessions in memory; a restart or a new password ends all of them."""

    def __init__(self) -> None:
        self._until_s: dict[bytes, float] = {}
        self._stored = b""
        self._attempts = float(_ATTEMPTS)
        self._attempts_s = 0.0

    def may_try(self, now_s: float) -> bool:
        """Whether a password may be tried now; counts the attempt."""
        since_s = max(0.0, now_s - self._attempts_s)
        self._attempts = min(float(_ATTEMPTS), self._attempts + since_s / _ATTEMPT_EVERY_S)
        self._attempts_s = now_s
        if self._attempts < 1.0:
            return False
        self._attempts -= 1.0
        return True

    def begin(self, stored: bytes, now_s: float) -> str:
        """Begin a session under the stored password; returns the cookie's value."""
        self.heed(stored)
        self._attempts = min(float(_ATTEMPTS), self._attempts + 1.0)  # the right password is not an attack
        token = secrets.token_urlsafe(32)
        self._until_s[_digest(token)] = now_s + SESSION_S
        if len(self._until_s) > _MOST_SESSIONS:
            del self._until_s[next(iter(self._until_s))]
        return token

    def heed(self, stored: bytes) -> None:
        """Set the stored password; another one ends all sessions."""
        if stored != self._stored:
            self._until_s.clear()
            self._stored = stored

    def is_in(self, token: str, now_s: float) -> bool:
        """Whether this cookie belongs to a session."""
        digest = _digest(token)
        until_s = self._until_s.get(digest)
        if until_s is None:
            return False
        if now_s >= until_s:
            del self._until_s[digest]
            return False
        return True

    def end(self, token: str) -> None:
        """Log out."""
        self._until_s.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
