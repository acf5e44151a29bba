"""Uses all the processor time it gets, and nothing else: what the attacker is compared with."""

import sys

print("ready", flush=True)
sys.stdin.readline()
while True:
    pass
