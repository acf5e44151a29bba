"""Sinks of answers at the server, for other programs: JSON lines, a ZeroMQ PUB socket, MQTT."""
