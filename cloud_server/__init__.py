"""The server program: it runs the tails of its bundles for the devices it has been told to trust."""
