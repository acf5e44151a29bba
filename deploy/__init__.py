"""The workstation's side of ``deploy.sh`` and ``deploy-server.sh``.

It needs a checkout, Python 3.10 with pip, and the user's own OpenSSH; it is not part of the installed packages. The
steps on the other machine are in ``on_board.sh``, one step for each call.
"""
