"""The server program: runs the tails of its bundles for the devices on its allow-list."""
