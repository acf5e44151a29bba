"""What the board senses of itself: load, heat, frequency."""
