"""The run-time check of annotations, only for the first calls with the same types and shapes.

A loop of a solver calls the same functions hundreds of times with tensors of the same shapes, and the checks of all
these calls would take longer than the calls.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jaxtyping

CHECKS = 3
"""Number of calls with arguments of the same types, dtypes and shapes that are checked in each test."""
calls: Counter[tuple[object, ...]] = Counter()

_jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """As `jaxtyping.jaxtyped`, which it replaces."""
    if function is None:
        return partial(jaxtyped, typechecker=typechecker)
    checked = _jaxtyped(function, typechecker=typechecker)
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        return checked

    from torch import Tensor  # not at the top: xdist's first process reads this file, too

    def kind(value: object) -> object:
        return (value.dtype, value.shape) if isinstance(value, Tensor) else type(value)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        key = (function, *map(kind, arguments), *options, *map(kind, options.values()))
        try:
            calls[key] += 1
        except TypeError:  # the shape of a graph that is being exported has no hash
            return checked(*arguments, **options)
        return (checked if calls[key] <= CHECKS else function)(*arguments, **options)

    return call
