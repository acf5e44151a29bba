"""The costs of the device program on this machine: time, memory, throughput, swaps, sources."""
