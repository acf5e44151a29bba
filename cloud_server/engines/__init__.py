"""Engines: their config tables, and the engine that spreads tails over a Ray cluster."""
