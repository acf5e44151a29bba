"""What makes a program a good service: systemd hears of it, what is stuck is found, its state can be read."""
