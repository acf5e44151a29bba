"""Calibrates cuts on public data: clip ranges, ranks, sensitivity weights, and the best allocation."""
