"""The emulated link: capacity traces, one direction as arithmetic, a TCP proxy, and the kernel's token bucket."""
