"""A randomised attacker with an allowed key against a server, a board, and two polite devices, all real processes.

usage: run.py [--model TFLITE --cut OP] [--seconds 1200] [--phase-s 20] [--seed SEED] [--only ATTACK,...] [--safety]
              [--keys 1|7]

The attacker has one allowed key, with as many connections as the server lets it have, and one that is revoked and
allowed again. With ``--keys 7`` it has six allowed keys beside that one.

Attacker and spinner take turns, each held to a quarter of a core. Prints the seed, and at the end one line of JSON
with the claims: both programs alive, no answer to another key, every answer right, and the polite devices' p95
beside the attacker at most 1.5 times that beside the spinner. Exits with 0 if all of them hold. With ``--safety``
there is no spinner and no claim about time.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from cpu_share import Share
from outcome import SETTLE_S, Phase, claim, result_of
from rig import CAREFUL, HERE, Rig, running

FASHION = HERE.parents[1] / "models" / "fashion" / "fashion_f32.tflite"
CORES = 0.25
REVOKE_EVERY_S = 1.5


def _phase(rig: Rig, share: Share, kind: str, number: int, options: argparse.Namespace, seconds: float) -> Phase:
    only = options.only.split(",") if options.only else []
    attacks = kind == "attacker"
    arguments: list[object] = [HERE / f"{kind}.py", *([rig.plan(number, only)] if attacks else [])]
    with running(rig, share, kind, arguments):
        begins_s = time.monotonic()
        doomed = False
        while (now_s := time.monotonic()) < begins_s + seconds and all(rig.alive.values()):
            time.sleep(min(REVOKE_EVERY_S, max(0.0, begins_s + seconds - now_s)))
            if attacks:
                rig.allow("doomed", rig.keys["doomed"]) if doomed else rig.revoke("doomed")
                doomed = not doomed
        ends_s = time.monotonic()
    if doomed:
        rig.allow("doomed", rig.keys["doomed"])
    return Phase(kind, begins_s, ends_s)


def main(arguments: list[str]) -> int:
    """Attack, and say what became of it."""
    parser = argparse.ArgumentParser(prog="run.py", description="A randomised attacker against real processes.")
    parser.add_argument("--model", type=Path, default=FASHION, help="the .tflite that all programs use")
    parser.add_argument("--cut", type=int, default=0, help="where the polite devices and the board cut it")
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--phase-s", type=float, default=20.0)
    parser.add_argument("--seed", default=None, help="of all attacks; printed")
    parser.add_argument("--only", default="", help="names of attacks, with commas")
    parser.add_argument("--keys", type=int, choices=sorted(CAREFUL), default=1, help="allowed keys of the attacker")
    parser.add_argument("--safety", action="store_true", help="no spinner, no claim about time")
    options = parser.parse_args(arguments)
    seed = options.seed or secrets.token_hex(4)
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacker-")))
        share = Share(CORES)
        stack.callback(share.close)
        rig = Rig(folder, seed, options.model, options.cut, options.keys)
        stack.callback(rig.close)
        time.sleep(2.0)
        end_s = time.monotonic() + options.seconds
        phases: list[Phase] = []
        while (left_s := end_s - time.monotonic()) > SETTLE_S and all(rig.alive.values()):
            kind = "attacker" if options.safety or len(phases) % 2 else "spinner"
            phases.append(_phase(rig, share, kind, len(phases), options, min(options.phase_s, left_s)))
            states = ", ".join(f"{name} {'alive' if lives else 'DEAD'}" for name, lives in rig.alive.items())
            print(f"{kind} {phases[-1].ends_s - phases[-1].begins_s:.0f} s: {states}", flush=True)
        about = {"keys": options.keys, "seconds": options.seconds, "share": f"{CORES} of a core by {share.means}"}
        result = about | result_of(rig, phases, safety=options.safety)
        for name, lives in rig.alive.items():
            if not lives:
                print(f"{name} ended with {getattr(rig, name).poll()}: {rig.log(name)[-600:]}", flush=True)
        rig.close()
        for name in ("server", "board", "attacker", "polite0", "polite1", "local"):
            if (folder / f"{name}.log").exists() and "Traceback" in rig.log(name):
                print(f"--- {name}: {rig.log(name)[-3000:]}", flush=True)
                if name in ("server", "board"):
                    result["claims"].append(claim(f"tracebacks of the {name}", 1, 0, holds=False))
    print(msgspec.json.encode(result).decode(), flush=True)
    return 0 if all(claim["holds"] for claim in result["claims"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
