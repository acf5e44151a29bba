"""How often each codeword was true on the devices: counts of released codewords, and unbiased estimates of them."""
