"""Parts of a service: config files, systemd notification, detection of stuck tasks, status file."""
