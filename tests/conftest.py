"""Fixtures that the whole suite shares."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the parity data: inputs and outputs of the published implementations."""
    return Path(__file__).parent / "reference"
