"""Cached features of a set of images: a reference set is the same in every evaluation.

    file name = SHA-256(identity of the extractor, shape and bytes of every image in order)

The features belong to exactly these images and this network, whatever their folder or batch size. (Features from
another device may differ in their last digits.) Files carry a hash of their numbers; a damaged one is not used.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from filelock import FileLock
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sdedit_pl.files import whole_file
from sdedit_pl.metrics.features import Batches, FeatureExtractor, stream_features
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)

_FEATURES, _HASH = "features", "sha256"


def cached_features(extractor: FeatureExtractor, batches: Batches, folder: Path) -> Float[Tensor, "N D"]:
    """The features of batches of images, float32 on the CPU, from the cache if it holds them.

    One batch is held at a time; `batches` must be iterable twice. If several processes need the features of one set,
    one computes them while the others wait. An unwritable folder only logs a warning.
    """
    if iter(batches) is batches:
        raise ValueError("images are iterated twice; give a list or a loader instead of an iterator")
    file = folder / f"{content_hash(extractor, batches)}.safetensors"
    lock = FileLock(f"{file}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        _warn_not_cached(folder, error)
        return stream_features(extractor, batches)
    try:
        features = _read(file)
        if features is None:
            features = stream_features(extractor, batches)
            _write(file, features)
        return features
    finally:
        lock.release()


def content_hash(extractor: FeatureExtractor, batches: Batches) -> str:
    """The SHA-256 of the extractor's identity and the images, independent of how they are batched."""
    digest = hashlib.sha256(extractor.identity.encode())

    def add(images: Images) -> None:
        for image in images.float().cpu():
            digest.update(repr(tuple(image.shape)).encode())
            digest.update(image.flatten().numpy().data)

    for _ in map(add, batches):  # a loop over the batches would hold one while the next is made
        pass
    return digest.hexdigest()


def _read(file: Path) -> Float[Tensor, "N D"] | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            features, facts = opened.get_tensor(_FEATURES), opened.metadata() or {}
        if facts.get(_HASH) != _hash(features):
            raise SafetensorError("its hash differs")
        return features
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s): features are computed again", file, error)
        return None


def _write(file: Path, features: Float[Tensor, "N D"]) -> None:
    try:
        with whole_file(file) as unfinished:
            # safetensors writes metadata in random order; with a single entry, equal features make equal files.
            unfinished.write_bytes(save({_FEATURES: features.contiguous()}, {_HASH: _hash(features)}))
    except OSError as error:
        _warn_not_cached(file.parent, error)


def _hash(features: Float[Tensor, "N D"]) -> str:
    digest = hashlib.sha256(repr(tuple(features.shape)).encode())
    digest.update(features.flatten().numpy().data)
    return digest.hexdigest()


def _warn_not_cached(folder: Path, error: OSError) -> None:
    logger.warning("features cannot be cached in %s (%s): every run computes them again", folder, error)
