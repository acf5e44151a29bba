"""Opens the parts of the device program, runs it, and closes them again."""
