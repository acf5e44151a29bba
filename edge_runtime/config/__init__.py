"""The device's config file: its tables, and the plug-in kinds of sources and sinks."""
