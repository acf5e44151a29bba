"""The way onto a board: what ``deploy.sh`` and ``deploy-server.sh`` do on the workstation.

It needs a checkout, Python 3.10 with pip, and the user's own OpenSSH; it is no part of the installed packages. What
happens on the other machine is in ``on_board.sh``, one step a call.
"""
