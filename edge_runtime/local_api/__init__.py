"""The local API: what programs on the board, the source ``socket`` and the sink ``pub`` say to each other.

Both sides have `framing` and `tensors`, the client has `connection` and `replies`. In the device program `peer`,
`messages`, `submissions`, `publications` and `shares` decide without I/O; `server` and `socket_files` are the rim.
"""
