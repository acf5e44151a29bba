"""Plans where to cut: prediction, choice, deadlines, tail times, back-off of refused cuts."""
