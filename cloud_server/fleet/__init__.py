"""The fleet of devices: their reports, the server's state of them, and the table in a terminal."""
