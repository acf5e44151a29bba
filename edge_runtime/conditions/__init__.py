"""What the board senses: its own load, and its link to the server."""
