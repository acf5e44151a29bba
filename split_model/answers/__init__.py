"""From a model's raw outputs to an answer: classes, boxes, landmarks, a map or a vector. NumPy alone.

One code for answers that come from the server, for those of the board itself, and for the workstation's figures.
"""
