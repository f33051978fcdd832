"""Features of a set of images, kept in a file: a reference set is the same in every evaluation.

    name of the file = SHA-256(identity of the extractor, shape and bytes of every image in order)

so that what is read belongs to these very images and this very network, whatever the folder they came from, the size of
their batches and the options of the command were. (Features that another device computed may differ in their last
digits.) A file is complete or not there, and carries the hash of its numbers: one that was damaged is not used.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from filelock import FileLock
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdedit_pl.files import whole_file
from sdedit_pl.metrics.features import Batches, FeatureExtractor, stream_features
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)

_FEATURES, _HASH, _IDENTITY = "features", "sha256", "identity"


def cached_features(extractor: FeatureExtractor, batches: Batches, folder: Path | None) -> Float[Tensor, "N D"]:
    """The features of images that come in batches, float32 (N, D) on the CPU, from the cache if they are there.

    At most one batch is held at a time. Of several processes that want the features of one set, one computes them while
    the others wait.

    Args:
        extractor: the network.
        batches: the images; they are gone through twice, to know them, and for their features if these are not there.
        folder: of the cache; None for none. Where it cannot be written, a warning is logged.

    Raises:
        TooFewImages: there are no images.
        ValueError: `batches` can be gone through only once.
    """
    if folder is None:
        return stream_features(extractor, batches)
    if iter(batches) is batches:
        raise ValueError("images are gone through twice; give a list or a loader in the place of an iterator")
    file = folder / f"{content_hash(extractor, batches)}.safetensors"
    lock = FileLock(f"{file}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        _warn_of_keeping(folder, error)
        return stream_features(extractor, batches)
    try:
        features = _read(file)
        if features is None:
            features = stream_features(extractor, batches)
            _write(file, features, extractor.identity)
        return features
    finally:
        lock.release()


def content_hash(extractor: FeatureExtractor, batches: Batches) -> str:
    """The SHA-256 of what features depend on: the extractor's identity and the images, however they are batched."""
    digest = hashlib.sha256(extractor.identity.encode())

    def add(images: Images) -> None:
        for image in images.float().cpu():
            digest.update(repr(tuple(image.shape)).encode())
            digest.update(image.flatten().numpy().data)

    for _ in map(add, batches):  # whereas a loop over the batches would hold one while the next is made
        pass
    return digest.hexdigest()


def _read(file: Path) -> Float[Tensor, "N D"] | None:
    """The features in a file; None where there is none, or a damaged one."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            features, facts = opened.get_tensor(_FEATURES), opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s): features are computed again", file, error)
        return None
    if facts.get(_HASH) != _hash(features):
        logger.warning("%s is damaged (its numbers are not those that were written): features are computed again", file)
        return None
    return features


def _write(file: Path, features: Float[Tensor, "N D"], identity: str) -> None:
    try:
        with whole_file(file) as unfinished:
            save_file({_FEATURES: features.contiguous()}, unfinished, {_HASH: _hash(features), _IDENTITY: identity})
    except (SafetensorError, OSError) as error:
        _warn_of_keeping(file.parent, error)


def _hash(features: Float[Tensor, "N D"]) -> str:
    """The SHA-256 of a tensor's shape and numbers."""
    digest = hashlib.sha256(repr(tuple(features.shape)).encode())
    digest.update(features.flatten().numpy().data)
    return digest.hexdigest()


def _warn_of_keeping(folder: Path, error: OSError | SafetensorError) -> None:
    logger.warning("features cannot be kept in %s (%s): they are computed in each run", folder, error)
