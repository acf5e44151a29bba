"""Counts of released codewords, and unbiased estimates of how often each was true on the devices."""
