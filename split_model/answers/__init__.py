"""Turns a model's raw outputs into an answer: classes, boxes, landmarks, a map or a vector. NumPy only.

The same code serves answers of the server, answers of the board, and the workstation's figures.
"""
