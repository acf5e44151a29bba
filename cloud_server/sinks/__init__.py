"""Where answers go at the server, for programs beside it: JSON lines, a ZeroMQ PUB socket, MQTT."""
