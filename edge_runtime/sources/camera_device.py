"""Parses the ``device`` of a camera: number, device file, video, URL or pipeline; hides passwords in logs.

URLs and pipelines may contain passwords. Only the process that reads the camera gets them whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from split_model.errors import ConfigError
from split_model.service.redaction import redacted, short_url, urls

Kind: TypeAlias = Literal["v4l2", "file", "url", "pipeline"]

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "srt", "udp", "rtp")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: Properties of GStreamer's elements that contain secrets.
_SECRET_PROPERTY = re.compile(
    r"(?:user-id|user-pw|user|password|passwd|passphrase|proxy-id|proxy-pw|token|extra-headers)\s*=\s*"
    r"(\"[^\"]*\"|'[^']*'|\S+)",
    re.IGNORECASE,
)
_DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}


@dataclass(frozen=True)
class CameraDevice:
    """A camera's ``device``, parsed by `of`."""

    text: int | str
    kind: Kind

    @classmethod
    def of(cls, device: int | str, where: str) -> CameraDevice:
        """Parse a device; `ConfigError`, beginning with ``where``, if it is invalid."""
        if isinstance(device, int) or device.startswith("/dev/"):
            return cls(device, "v4l2")
        if device.isdecimal():
            return cls(int(device), "v4l2")
        if "!" in device and not _URL.match(device):
            last = device.rpartition("!")[2].split()
            if not last or last[0] != "appsink":
                raise ConfigError(f"{where}: device: the pipeline does not end in an appsink",
                                  remedy="write '... ! videoconvert ! appsink'")  # fmt: skip
            return cls(device, "pipeline")
        if _URL.match(device):
            _check_url(device, where)
            return cls(device, "url")
        return cls(device, "file")

    @property
    def name(self) -> str:
        """The name for logs and status, without user names, passwords, paths and queries of a URL."""
        if self.kind == "url":
            return short_url(str(self.text))
        if self.kind == "pipeline":
            return f"pipeline {str(self.text).split()[0]} ..."
        return str(self.text)

    @property
    def place(self) -> tuple[str, int] | None:
        """Host and port of a URL over TCP; None for other devices."""
        if self.kind != "url":
            return None
        parts = urlsplit(str(self.text))
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())
        return None if parts.hostname is None or port is None or parts.scheme == "srt" else (parts.hostname, port)

    def without_secrets(self, text: str) -> str:
        """Remove secrets of the device from a library's text, such as an error message."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "***")
        return redacted(text)

    def _secrets(self) -> set[str]:
        if self.kind not in ("url", "pipeline"):
            return set()
        whole = str(self.text)
        found = {match[1].strip("\"'") for match in _SECRET_PROPERTY.finditer(whole)}
        for url in urls(whole):
            parts = urlsplit(url)
            found |= {part for part in (parts.password, unquote(parts.password or "")) if part}
            found |= {tail for tail in (parts.path.lstrip("/"), parts.query) if "=" in tail}
            if parts.username and parts.password:
                found |= {f"{parts.username}:{parts.password}"}
        return {secret for secret in found if len(secret) > 1}

    def pipeline(self, *, width: int | None, height: int | None, fps: float | None) -> str:
        """The GStreamer pipeline; ends in ``videoconvert ! appsink name=frames``. Texts in it are quoted."""
        if self.kind == "pipeline":
            head, _, sink = str(self.text).rpartition("!")
            options = " ".join(word for word in sink.split()[1:] if not word.startswith("name="))
            return f"{head} ! videoconvert ! appsink name=frames {options}".strip()
        size = "" if width is None else f" ! videoscale ! video/x-raw, width={width}, height={height}"
        rate = (
            "" if fps is None else f" ! videorate drop-only=true ! video/x-raw, framerate={round(fps * 1000)}/1000"
        )
        return f"{self._begin()} ! decodebin ! videoconvert{size}{rate} ! videoconvert ! appsink name=frames"

    def _begin(self) -> str:
        text = _quoted(str(self.text))
        if self.kind == "v4l2":
            return f"v4l2src device={_quoted(f'/dev/video{self.text}')}" if isinstance(self.text, int) else (
                f"v4l2src device={text}"
            )  # fmt: skip
        if self.kind == "file":
            return f"filesrc location={text}"
        scheme = str(self.text).partition("://")[0].lower()
        if scheme in ("rtsp", "rtsps"):
            return f"rtspsrc location={text} protocols=tcp latency=200 drop-on-latency=true"
        if scheme in ("http", "https"):
            return f"{_http_source(str(self.text))} ! multipartdemux single-stream=true"
        return f"urisourcebin uri={text}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _http_source(url: str) -> str:
    """The source element of Motion JPEG over HTTP; sends the password at once, as some cameras never ask."""
    parts = urlsplit(url)
    user = "".join(
        f" {name}={_quoted(unquote(value))}"
        for name, value in (("user-id", parts.username), ("user-pw", parts.password))
        if value
    )
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return f"souphttpsrc location={_quoted(bare)} is-live=true do-timestamp=true{user}"


def _check_url(device: str, where: str) -> None:
    try:
        parts = urlsplit(device)
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            f"{where}: device: the URL cannot be read: {redacted(str(error))}",
            remedy="write it as rtsp://HOST/PATH",
        ) from None
    if parts.scheme.lower() not in SCHEMES:
        raise ConfigError(f"{where}: device: {parts.scheme}:// is not a kind of camera",
                          remedy=f"choose one of {', '.join(SCHEMES)}")  # fmt: skip
    if not parts.hostname or port == 0 or re.search(r"\s", device):
        raise ConfigError(
            f"{where}: device: {short_url(device)} names no host, or has spaces",
            remedy="write it as rtsp://USER:PASSWORD@HOST:554/PATH, special characters as %40",
        )
