"""Bundles: one model, its cuts and all their files, verified by hash."""

from split_model.bundle.manifest import (
    FORMAT,
    Allocation,
    AllocationChoice,
    AllocationTrial,
    ChannelCalibration,
    Codebook,
    Cut,
    ImagePreprocess,
    LeftOut,
    Manifest,
    NoiseTail,
    OutputSchema,
    Reference,
    TensorSpec,
    TopK,
)
from split_model.bundle.records import FileRef
from split_model.bundle.store import Bundle, file_ref, manifest_of, sha256_of, write_manifest, writing

__all__ = [
    "FORMAT",
    "Allocation",
    "AllocationChoice",
    "AllocationTrial",
    "Bundle",
    "ChannelCalibration",
    "Codebook",
    "Cut",
    "FileRef",
    "ImagePreprocess",
    "LeftOut",
    "Manifest",
    "NoiseTail",
    "OutputSchema",
    "Reference",
    "TensorSpec",
    "TopK",
    "file_ref",
    "manifest_of",
    "sha256_of",
    "write_manifest",
    "writing",
]
