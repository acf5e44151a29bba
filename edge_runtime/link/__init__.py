"""The connection to the server: its thread, its sockets, and what is known of the link."""
