"""Read a ``.tflite`` file, find its cuts, and write each side of a cut as a file of its own."""
