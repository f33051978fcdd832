"""Image labels that condition a network in addition to the noise level: a class, a number, or both.

A condition turns a label, which is text, into a vector. The network embeds it linearly, without a bias, and adds it to
the embedding of the noise level, so that zeros mean no label. Training drops some labels, so that the network also
models images without a label, which classifier-free guidance needs.

Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022).
"""

from __future__ import annotations

import abc
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

LISTED_CLASSES = 20
"""Maximum number of classes in a message."""


@dataclass(frozen=True, kw_only=True)
class Condition(abc.ABC):
    """The labels that a model knows.

    Args:
        drop: probability of dropping an image's label in training; above 0, the model also works without labels, and
            guidance=W can strengthen a label.
    """

    drop: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must lie in [0, 1), got {self.drop}; with 0 every edit needs a label")

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Length of the vector; 0 for a model without labels."""

    @property
    @abc.abstractmethod
    def known(self) -> str:
        """The labels that the model knows, in words, for messages."""

    @abc.abstractmethod
    def fitted(self, labels: Sequence[str]) -> Condition:
        """The condition with missing arguments taken from the labels of the training images."""

    @abc.abstractmethod
    def vector(self, label: str) -> Sequence[float]:
        """The vector of a label; raises ValueError for a label that the model does not know."""

    @property
    def complete(self) -> bool:
        """Whether `fitted` takes nothing from the training images."""
        return True

    @property
    def examples(self) -> Sequence[str]:
        return ()

    @property
    def required(self) -> bool:
        """Whether the model was never trained without a label."""
        return bool(self.size) and not self.drop

    def vectors(self, labels: Sequence[str]) -> Float[Tensor, "N size"]:
        """The vectors of labels; raises ValueError for an unknown label, or if the model has no labels."""
        if not self.size:
            raise ValueError(
                f"label={labels[0]} is for a model trained with labels (data.labels), and this one has none"
            )
        return torch.tensor([self.vector(label) for label in labels]).view(len(labels), self.size)


@dataclass(frozen=True, kw_only=True)
class ClassCondition(Condition):
    """One of several classes, as a one-hot vector.

    Args:
        classes: names of the classes in the order of the vector; [] takes those of the training images, sorted.
    """

    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must differ from each other, got {self.known}")

    @property
    def size(self) -> int:
        return len(self.classes)

    @property
    def known(self) -> str:
        more = f" and {self.size - LISTED_CLASSES} more" if self.size > LISTED_CLASSES else ""
        return f"the classes {', '.join(self.classes[:LISTED_CLASSES])}{more}"

    @property
    def complete(self) -> bool:
        return bool(self.classes)

    @property
    def examples(self) -> Sequence[str]:
        return self.classes

    def fitted(self, labels: Sequence[str]) -> ClassCondition:
        found = set(labels)
        names = sorted(found, key=lambda name: (int(name) if name.isdecimal() else math.inf, name))
        return self if self.classes else replace(self, classes=tuple(names))

    def vector(self, label: str) -> Sequence[float]:
        if label not in self.classes:
            close = difflib.get_close_matches(label, self.classes, n=1, cutoff=0.5)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"label={label} is unknown{meant}; the model has {self.known}")
        return [float(name == label) for name in self.classes]


@dataclass(frozen=True, kw_only=True)
class NumberCondition(Condition):
    """A number in a range; its vector has the weights of linear interpolation between `knots` evenly spaced values.

    Args:
        low: smallest number; null takes that of the training images.
        high: largest number; null takes that of the training images.
        knots: length of the vector.
    """

    low: float | None = None
    high: float | None = None
    knots: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.knots < 2:
            raise ValueError(f"knots must be at least 2, got {self.knots}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")

    @property
    def size(self) -> int:
        return self.knots

    @property
    def known(self) -> str:
        return f"numbers from {self.low:g} to {self.high:g}"

    @property
    def complete(self) -> bool:
        return None not in (self.low, self.high)

    @property
    def examples(self) -> Sequence[str]:
        return [_text(number) for number in (self.low, self.high) if number is not None]

    def fitted(self, labels: Sequence[str]) -> NumberCondition:
        numbers = [_number(label) for label in labels]
        return replace(
            self,
            low=min(numbers) if self.low is None else self.low,
            high=max(numbers) if self.high is None else self.high,
        )

    def vector(self, label: str) -> Sequence[float]:
        number = _number(label)
        assert self.low is not None and self.high is not None
        if not self.low <= number <= self.high:
            raise ValueError(f"label={label} is outside the range of the training images; the model has {self.known}")
        place = (number - self.low) / (self.high - self.low) * (self.knots - 1)
        return [max(0.0, 1 - abs(place - knot)) for knot in range(self.knots)]


@dataclass(frozen=True, kw_only=True)
class ClassNumberCondition(NumberCondition):
    """A class and a number, "dress,0.3": the vector of condition=class, then that of condition=number.

    Args:
        classes: as for condition=class.
    """

    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        ClassCondition(classes=self.classes)  # checks the names

    @property
    def _class(self) -> ClassCondition:
        return ClassCondition(drop=self.drop, classes=self.classes)

    @property
    def size(self) -> int:
        return self._class.size + super().size

    @property
    def known(self) -> str:
        return f"{self._class.known}, each followed by a comma and {super().known}"

    @property
    def complete(self) -> bool:
        return self._class.complete and super().complete

    @property
    def examples(self) -> Sequence[str]:
        return [f"{name},{number}" for name in self.classes for number in super(ClassNumberCondition, self).examples]

    def fitted(self, labels: Sequence[str]) -> ClassNumberCondition:
        if self.complete:
            return self
        names, _, numbers = zip(*(label.rpartition(",") for label in labels), strict=True)
        found = super().fitted(numbers)
        return replace(self, classes=self._class.fitted(names).classes, low=found.low, high=found.high)

    def vector(self, label: str) -> Sequence[float]:
        name, comma, number = label.rpartition(",")
        if not comma:
            raise ValueError(f"label={label} needs a class and a number, as in name,0.5; the model has {self.known}")
        return [*self._class.vector(name), *super().vector(number)]


def _number(label: str) -> float:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"label={label} is not a number, as condition=number needs; condition=class takes names")
    return number


def _text(number: float) -> str:
    """The shortest text with all digits of a number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


CONDITIONS: dict[str, type[Condition]] = {
    "class": ClassCondition,
    "number": NumberCondition,
    "class_number": ClassNumberCondition,
}
