"""Engines: the tables of the config, and the one that spreads tails over a Ray cluster."""
