"""Heads, local tails and the whole model on this board; what they cost and hold."""
