"""Makes model inputs: pictures and arrays in, tensors out."""
