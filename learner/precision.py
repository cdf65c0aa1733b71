"""Precision: which stages run in half precision, and what that asks of the tree."""

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch

from learner.callbacks.autocast import Autocast
from learner.errors import ArgumentError
from stages import Callback, Composite, Stage
from state.errors import nearest, suggestion

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

_CAST = ("forward", "loss", "validate_loss")
"""The slots that run under autocast. Gradients and updates do not: PyTorch keeps their types by itself."""


def check_precision(precision: str) -> str:
    """`precision`, if there is such a one.

    Raises:
        ArgumentError: there is none.
    """
    known = get_args(Precision)
    if precision not in known:
        near = suggestion(nearest(str(precision), known))
        raise ArgumentError("Learner", "precision", f"precision={precision!r} is none of {list(known)}.{near}")
    return precision


def refuse_uncast(tree: Composite, callbacks: Iterable[Any], precision: str) -> None:
    """Refuse a tree of which nothing would run in half precision.

    Raises:
        ArgumentError: it has none of the slots that are cast, and none of the callbacks is an Autocast.
    """
    given = (one for some in callbacks for one in (some if isinstance(some, tuple) else (some,)))
    if set(_CAST).isdisjoint(_slots(tree)) and not any(isinstance(one, Autocast) for one in given):
        told = f"precision={precision!r} casts the slots {list(_CAST)}, and this tree has none of them. "
        told += f"Name those to cast: callbacks=[Autocast({DTYPES[precision]}, slots=(...))]."
        raise ArgumentError("Learner", "precision", told)


def autocasts(tree: Composite, dtype: torch.dtype) -> list[Callback]:
    """What casts the stages of a tree that are to be cast; nothing where it has none."""
    found = set(_slots(tree))
    slots = tuple(slot for slot in _CAST if slot in found)
    return [Autocast(dtype, slots)] if slots else []


def _slots(stage: Stage) -> list[str]:
    """The slots below a stage, inline ones included."""
    held = stage.stages.items() if isinstance(stage, Composite) else ()
    return [*stage.inline, *(name for slot, child in held for name in (slot, *_slots(child)))]
