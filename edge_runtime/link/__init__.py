"""The connection to the server: its thread, its sockets, and the estimate of the link."""
