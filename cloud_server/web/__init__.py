"""The page that shows the fleet, and metrics for Prometheus: read-only, behind a login, in a thread of its own."""
