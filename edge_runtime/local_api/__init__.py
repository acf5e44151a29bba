"""The local API: the protocol between programs on the board, the source ``socket`` and the sink ``pub``.

Both sides use `framing` and `tensors`; the client uses `connection` and `replies`. In the device program `peer`,
`messages`, `submissions`, `publications` and `shares` do no I/O; `server` and `socket_files` do.
"""
