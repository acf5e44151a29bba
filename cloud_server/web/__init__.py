"""The fleet page and the metrics for Prometheus: read-only, behind a login, in a separate thread."""
