"""The feature side of a frame: pictures and arrays in, tensors out."""
