"""Reads a ``.tflite`` file, finds its cuts, and writes each side of a cut as a separate file."""
