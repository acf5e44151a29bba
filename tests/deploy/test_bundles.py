"""Which files of a bundle's folder go to a machine."""

from __future__ import annotations

import hashlib
import json

from deploy.bundles import read_bundle


def test_the_measured_figures_go_along_and_change_no_identity(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"model")
    (tmp_path / "notes.txt").write_text("mine")
    named = {"path": "model.tflite", "sha256": hashlib.sha256(b"model").hexdigest(), "size_bytes": 5}
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "m", "model": named}))
    before = read_bundle(tmp_path)
    assert [name for name, _ in before.files] == ["manifest.json", "model.tflite"]
    (tmp_path / "evaluation.json").write_text("{}")
    after = read_bundle(tmp_path)
    assert after.identity == before.identity
    assert after.files == (*before.files, ("evaluation.json", hashlib.sha256(b"{}").hexdigest()))
    (tmp_path / "audit.json").write_text("[]")
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "cut-001.npz").write_bytes(b"an attacker, which a board has no use for")
    assert read_bundle(tmp_path).files == (*after.files, ("audit.json", hashlib.sha256(b"[]").hexdigest()))
