"""What the device program costs on this machine: time, memory, throughput, swaps, sources."""
