"""Parts of a service: config files, systemd notification, detection of stuck work, the status file."""
