"""Puts the device program together, runs it, and takes it apart again."""
