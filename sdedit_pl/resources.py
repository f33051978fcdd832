"""Where the configurations are: in a checkout at the top, in an installed package inside it."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.configuration import ConfigError

PACKAGE = Path(__file__).resolve().parent


def config_folders() -> list[Path]:
    """The folders that bundled configurations are found in, the first that has one wins."""
    return [folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()]


def find_config(name: str) -> Path:
    """The file of a configuration given as a path or by the name of a bundled one.

    Raises:
        ConfigError: if there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    for folder in config_folders():
        bundled = folder / f"{name}.yaml"
        if bundled.is_file():
            return bundled
    names = sorted({file.stem for folder in config_folders() for file in folder.glob("*.yaml")})
    raise ConfigError(f"there is no configuration {name!r}: neither a file nor one of {', '.join(names)}")
