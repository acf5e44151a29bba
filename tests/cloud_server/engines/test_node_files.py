"""The files of tails on one node: by hash, fetched once, within a bound."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from cloud_server.engines.node_files import NodeFiles
from split_model.errors import BadBundleError, NotAllowedError


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def files(tmp_path) -> NodeFiles:
    return NodeFiles(tmp_path / "tails", limit_bytes=100)


def test_a_file_is_fetched_once_for_all_replicas_of_a_node(tmp_path):
    content, fetched = b"a tail", []

    def fetch() -> bytes:
        fetched.append(1)
        time.sleep(0.05)
        return content

    def add() -> None:
        NodeFiles(tmp_path / "tails", limit_bytes=100).add(hash_of(content), fetch)

    replicas = [threading.Thread(target=add) for _ in range(4)]
    for replica in replicas:
        replica.start()
    for replica in replicas:
        replica.join()
    assert fetched == [1]
    assert NodeFiles(tmp_path / "tails", limit_bytes=100).missing([hash_of(content), hash_of(b"other")]) == [
        hash_of(b"other")
    ]


def test_other_bytes_than_those_of_the_hash_are_not_kept(files):
    with pytest.raises(BadBundleError, match="other bytes"):
        files.add(hash_of(b"wanted"), lambda: b"sent")
    assert files.missing([hash_of(b"wanted")]) == [hash_of(b"wanted")]


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_only_a_hash_names_a_file(files, name):
    with pytest.raises(BadBundleError, match="not a SHA-256"):
        files.add(name, lambda: b"")


def test_what_was_not_used_for_longest_makes_room(files):
    contents = [bytes([number]) * 40 for number in range(3)]
    for age, content in enumerate(contents[:2]):
        files.add(hash_of(content), lambda content=content: content)
        os.utime(files.path(hash_of(content)), (1000 + age, 1000 + age))
    assert files.missing([hash_of(contents[0])]) == []  # so it was used now
    files.add(hash_of(contents[2]), lambda: contents[2])
    assert files.missing(map(hash_of, contents)) == [hash_of(contents[1])]


def test_a_damaged_file_is_not_used_and_is_fetched_again(files, model):
    bundle = model.bundle
    tail = bundle.cut(1).tail
    manifest = (bundle.root / "manifest.json").read_bytes()
    roomy = NodeFiles(files.path("0" * 64).parent, limit_bytes=1 << 30)
    roomy.add(bundle.identity, lambda: manifest)
    roomy.add(tail.sha256, lambda: bundle.read(tail))
    here = roomy.bundle(bundle.identity)
    assert here.read(tail) == bundle.read(tail)
    roomy.path(tail.sha256).write_bytes(b"damaged")
    with pytest.raises(BadBundleError, match="SHA-256 differs"):
        here.read(tail)
    roomy.path(bundle.identity).write_bytes(manifest[:-1])
    with pytest.raises(BadBundleError, match="SHA-256 differs"):
        roomy.bundle(bundle.identity)
    assert roomy.missing([tail.sha256, bundle.identity]) == [tail.sha256, bundle.identity]


def test_a_folder_that_others_may_write_is_refused(tmp_path):
    folder = tmp_path / "tails"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(NotAllowedError, match="only this user may write"):
        NodeFiles(folder, limit_bytes=100)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(NotAllowedError):
        NodeFiles(tmp_path / "link", limit_bytes=100)
