"""The device program as a service: status, reports, watchdog and doctor."""
