"""Images for whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny import write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two-colour images; not to be changed."""
    return write_images(tmp_path_factory.mktemp("images"))
