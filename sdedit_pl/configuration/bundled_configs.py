"""Bundled configurations: at the top of a checkout, inside an installed package."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.configuration.schema import ConfigError, alike

PACKAGE = Path(__file__).resolve().parents[1]


def config_folders() -> list[Path]:
    return [folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()]


def find_config(name: str) -> Path:
    """The file of a configuration, from its path or the name of a bundled one; raises ConfigError if there is none."""
    path = Path(name)
    if path.is_file():
        return path
    for folder in config_folders():
        bundled = folder / f"{name}.yaml"
        if bundled.is_file():
            return bundled
    names = sorted({file.stem for folder in config_folders() for file in folder.glob("*.yaml")})
    raise ConfigError(
        f"there is no configuration {name!r}: neither a file nor one of {', '.join(names)}{alike(name, names)}"
    )
