"""Plays a microcontroller: sends packets over a pseudo-terminal at /run/mcu, and writes down the answers."""

import grp
import os
import select
import sys
import time
import tty

import numpy as np

from edge_runtime.sources.serial_packets import write_packet

ours, theirs = os.openpty()
tty.setraw(theirs)
port = os.ttyname(theirs)
os.chown(port, 0, grp.getgrnam("dialout").gr_gid)
os.chmod(port, 0o660)  # noqa: PTH101  as udev would
os.symlink(port, "/run/mcu")  # noqa: PTH211
values, sequence, answers = int(sys.argv[1]), 0, open("/run/mcu.answers", "ab", buffering=0)  # noqa: PTH123, SIM115
while True:
    rest = write_packet(np.full(values, sequence % 7, np.float32), sequence)
    sequence += 1
    due_s = time.monotonic() + 0.1
    while (left_s := due_s - time.monotonic()) > 0:
        reading, writing, _ = select.select([ours], [ours] if rest else [], [], left_s)
        if reading:
            answers.write(os.read(ours, 4096))
        if writing:
            rest = rest[os.write(ours, rest) :]
