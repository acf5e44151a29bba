"""Measures the accuracy of answers through a release (``split-model evaluate``)."""
