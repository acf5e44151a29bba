"""The peer: the same tail and the same undoing of noise behind gRPC with mutual TLS. Needs the extra ``bench``.

python -m benchmarks.server.grpc_peer CUT THREADS FOLDER     serves; prints its port
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.demo.rig import Rig
from benchmarks.server.case import peer_case
from split_model.errors import BackendError
from split_model.interpreter import open_interpreter
from split_model.privacy import NoiseRecovery

METHOD = "/Tail/Run"
_DAYS = 2


@dataclass(frozen=True)
class Endpoint:
    """A peer that runs: its port, its process id, and the folder with its certificate and its tails' CPU time."""

    port: int
    pid: int
    folder: Path

    @property
    def counter(self) -> Path:
        """The file with the CPU time of its tails, where that is counted (`in_place`)."""
        return self.folder / "tails"


def require() -> None:
    """Raise an error with the remedy where gRPC is not installed."""
    try:
        import cryptography  # noqa: F401
        import grpc  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"the peer needs {error.name}", remedy="pip install -e '.[bench]', or leave the peer out with --no-peer"
        ) from None


@contextlib.contextmanager
def serving(cut: int, *, threads: int, counted: bool = False) -> Iterator[Endpoint]:
    """Start the peer, and end it at the end; ``counted``: with its tails' CPU time."""
    require()
    with tempfile.TemporaryDirectory(prefix="grpc-") as folder, Rig(Path(folder)) as rig:
        make_certificate(rig.folder)
        by = ("benchmarks.server.in_place", str(rig.folder / "tails")) if counted else ()
        program, ready = rig.start(
            "grpc", "-m", *by, "benchmarks.server.grpc_peer", str(cut), str(threads), folder, wait_json=True
        )
        yield Endpoint(int(ready["port"]), program.process.pid, rig.folder)


def make_certificate(folder: Path) -> None:
    """A key pair of both sides and its certificate, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def credentials(folder: Path) -> tuple[bytes, bytes]:
    """The key and the certificate of a folder."""
    return (folder / "key.pem").read_bytes(), (folder / "certificate.pem").read_bytes()


def serve(cut_index: int, threads: int, folder: Path) -> None:
    """Serve one tail until the process is ended."""
    import grpc

    case = peer_case(cut_index)
    local = threading.local()
    recovery = NoiseRecovery(case.plan)

    def run(payload: bytes, _context: Any) -> bytes:
        if not hasattr(local, "interpreter"):
            local.interpreter = open_interpreter(case.tail)
        outputs = local.interpreter.run(recovery(payload))
        return b"".join(output.tobytes() for output in outputs)

    server = grpc.server(futures.ThreadPoolExecutor(threads))
    handler = grpc.unary_unary_rpc_method_handler(run, None, None)
    service, _, method = METHOD.strip("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    pair = credentials(folder)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair], pair[1], True))
    server.start()
    print(f'{{"port": {port}}}', flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
