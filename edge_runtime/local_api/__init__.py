"""The local API: what programs on the board, the source ``socket`` and the sink ``pub`` say to each other.

Both sides have `framing` and `tensors`, the client has `connection`. In the device program `messages`, `peer`,
`submissions`, `publications` and `shares` decide without I/O; `server` and `socket_files` are the rim.
"""
