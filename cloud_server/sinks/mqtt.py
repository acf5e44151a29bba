"""The kind ``mqtt``: sends every answer to an MQTT broker, with paho (extra ``mqtt``); it reconnects."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from cloud_server.sinks.sink import Sink, SinkTable
from split_model.errors import ConfigError, MissingInputError, OutputError
from split_model.service import text_file

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_KEEPALIVE_S = 30
_RETRY_S = (1, 30)
_FAREWELL_S = 2.0
_POLL_S = 0.02
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class MqttTable(SinkTable, frozen=True, tag="mqtt"):
    """A broker at ``host`` and ``port``; topics are ``TOPIC/BUNDLE/DEVICE``.

    ``tls``: default on, except for a broker on this machine; ``ca``: file of the trusted authority, by default
    those of the system. ``username`` and ``password_file``: for a broker that needs them. ``qos``: 0 at most once,
    1 at least once. ``retain``: whether the broker keeps the last answer of each topic. ``queue_messages``: answers
    that wait while the broker is away; more are lost, and counted.
    """

    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    topic: Annotated[str, msgspec.Meta(pattern=r"^[^+#\x00]{1,256}\Z")] = "split/answers"
    tls: bool | None = None
    ca: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    qos: Literal[0, 1] = 1
    retain: bool = False
    queue_messages: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used."""
        return self.host not in _LOOPBACK if self.tls is None else self.tls

    def open(self) -> Mqtt:
        """Start to connect; an absent broker is retried."""
        return Mqtt(self)


class Mqtt(Sink):
    """See `MqttTable`."""

    def __init__(self, table: MqttTable) -> None:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise ConfigError(
                f"sink {table.label}: paho-mqtt is not installed", remedy="pip install 'split-runtime[mqtt]'"
            ) from None
        if table.username is not None and not table.encrypted and table.host not in _LOOPBACK:
            raise ConfigError(
                f"sink {table.label}: tls = false would send the password in the clear",
                remedy="set tls = true, or take a broker on this machine",
            )
        self._table = table
        self._client: Client = Client(CallbackAPIVersion.VERSION2, client_id="")
        self._client.max_queued_messages_set(table.queue_messages)
        self._client.reconnect_delay_set(*_RETRY_S)
        if table.encrypted:
            try:
                self._client.tls_set(None if table.ca is None else str(table.ca))
            except (OSError, ValueError) as error:
                raise MissingInputError(
                    f"{table.ca}: {error}", remedy="set sink.ca to a file of certificates"
                ) from None
        if table.username is not None:
            self._client.username_pw_set(table.username, _password(table))
        self._client.connect_async(table.host, table.port or (8883 if table.encrypted else 1883), _KEEPALIVE_S)
        self._client.loop_start()

    def write(self, topic: tuple[str, ...], record: bytes) -> None:
        """Pass the record to the client's thread; never waits."""
        from paho.mqtt.enums import MQTTErrorCode

        table = self._table
        where = "/".join([table.topic, *(_level(part) for part in topic[1:])])
        told = self._client.publish(where, record, qos=table.qos, retain=table.retain)
        if told.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise OutputError(
                f"sink {table.label}: {table.host}: {told.rc.name}: {table.queue_messages} answers wait already",
                remedy="look after the broker",
            )
        if told.rc == MQTTErrorCode.MQTT_ERR_NO_CONN and table.qos == 0:
            raise OutputError(f"sink {table.label}: {table.host} is away", remedy="look after the broker")

    def close(self) -> None:
        """Wait up to two seconds for the broker to take the waiting answers, and disconnect."""
        deadline_s = time.monotonic() + _FAREWELL_S
        while self._client.want_write() and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        self._client.disconnect()
        self._client.loop_stop()


def _level(name: str) -> str:
    """Turn a name into one level of a topic."""
    return "".join("_" if letter in "+#/\0" else letter for letter in name)


def _password(table: MqttTable) -> str | None:
    if table.password_file is None:
        return None
    try:
        raw = table.password_file.read_bytes()
    except OSError as error:
        raise MissingInputError(
            f"{table.password_file}: {error}", remedy="set sink.password_file to a file the server may read"
        ) from None
    return text_file.text(raw, str(table.password_file)).rstrip("\n")
