"""`sdedit publish`: share a model."""

from __future__ import annotations

from sdedit_pl.cli import say
from sdedit_pl.configuration.schema import Command
from sdedit_pl.publishing import PublishSettings, publish_model

USAGE = """sdedit publish ckpt=RUN to=hf:owner/name|FOLDER domain=... images=... licence=... [key=value ...]

Writes the weights, a model card, loss curves and pictures of a run, or of any other checkpoint, and pushes them to the
Hugging Face Hub or leaves them in a folder."""

COMMAND = Command(
    USAGE,
    PublishSettings,
    examples=('sdedit publish ckpt=runs/mine to=hf:me/cups domain="photos of cups" images="500 of mine" licence=mit',),
)


def run(words: list[str]) -> None:
    place = publish_model(COMMAND.parse(words))
    say(f"published in {place}")
