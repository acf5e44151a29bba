"""The device program: heads, what the board senses, the planner, offloading with deadlines, sources and sinks."""
