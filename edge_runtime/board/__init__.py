"""The board's own sensors: load, temperature, clock."""
