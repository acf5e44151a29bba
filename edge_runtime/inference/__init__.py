"""Heads, local tails and the whole model on this board; their costs and memory."""
