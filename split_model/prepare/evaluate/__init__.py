"""Measure how good the answers through a release are (``split-model evaluate``)."""
