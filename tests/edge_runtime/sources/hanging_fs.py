"""A file system of FUSE, spoken to the kernel as it is, that shows one folder; stopped with SIGSTOP, it hangs.

Run as root: hanging_fs.py FOLDER PLACE. Prints a line once PLACE is mounted. A folder without sub-folders; files
can be read and deleted.
"""

import ctypes
import errno
import os
import struct
import sys
from pathlib import Path

FORGET, BATCH_FORGET, INTERRUPT = 2, 42, 36
LOOKUP, GETATTR, UNLINK, OPEN, READ, STATFS, RELEASE, FLUSH = 1, 3, 10, 14, 15, 17, 18, 25
INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS = 26, 27, 28, 29, 34
MAX_WRITE = 1 << 17


class HangingFs:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = [""]  # the node of a name is its place here, and one

    def node(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name) + 1

    def path(self, node: int) -> Path:
        return self.folder / self.names[node - 1]

    def attributes(self, node: int) -> bytes:
        found = self.path(node).stat()
        times = [divmod(ns, 10**9) for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
        seconds, rest = zip(*times, strict=True)
        return struct.pack("<6Q10I", node, found.st_size, (found.st_size + 511) // 512, *seconds, *rest,
                           found.st_mode, 1, 0, 0, 0, 4096, 0)  # fmt: skip

    def answer(self, operation: int, node: int, body: bytes) -> bytes:
        name = body.split(b"\0")[0].decode() if operation in (LOOKUP, UNLINK) else ""
        if operation == INIT:
            return struct.pack("<4I2H2I2H8I", 7, 26, 1 << 17, 0, 16, 12, MAX_WRITE, 1, 0, 0, *[0] * 8)
        if operation == LOOKUP:
            attributes = self.attributes(self.node(name))
            return struct.pack("<4Q2I", self.node(name), 0, 0, 0, 0, 0) + attributes
        if operation == GETATTR:
            return struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)
        if operation == UNLINK:
            (self.folder / name).unlink()
        if operation in (OPEN, OPENDIR):
            return struct.pack("<Q2I", 0, 0, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self.path(node).read_bytes()[offset : offset + size]
        if operation == READDIR:
            _, offset, _ = struct.unpack_from("<QQI", body)
            return b"".join(self.entries(offset))
        if operation == STATFS:
            return struct.pack("<5Q4I6I", 1000, 500, 500, 1000, 500, 4096, 255, 4096, 0, *[0] * 6)
        if operation in (UNLINK, RELEASE, RELEASEDIR, FLUSH):
            return b""
        raise OSError(errno.ENOSYS, "")

    def entries(self, offset: int) -> list[bytes]:
        names = sorted(path.name for path in self.folder.iterdir())[offset:]
        return [
            struct.pack("<QQII", self.node(name), offset + number + 1, len(name), 8) + name.encode()
            + bytes(-len(name) % 8)
            for number, name in enumerate(names[:50])
        ]  # fmt: skip


def main() -> None:
    folder, place = Path(sys.argv[1]), sys.argv[2]
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hanging", place.encode(), b"fuse.hanging", 6, options.encode()):
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    fs = HangingFs(folder)
    while True:
        try:
            request = os.read(device, MAX_WRITE + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            raise
        _, operation, unique, node = struct.unpack_from("<IIQQ", request)
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        try:
            code, body = 0, fs.answer(operation, node, request[40:])
        except OSError as error:
            code, body = -(error.errno or errno.EIO), b""
        os.write(device, struct.pack("<IiQ", 16 + len(body), code, unique) + body)


if __name__ == "__main__":
    main()
