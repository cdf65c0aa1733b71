"""What is so of gradients that are there already when others are added: they are meant, and no update has used them."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from learner.invariants.standing import warned
from learner.invariants.updates import stepped
from stages import Invariant, TrainingPhase, Writes
from stages.invariants import Wrong
from stages.place import Place

_NAME = "an update uses gradients that were made for it"


def invariants() -> tuple[Invariant, ...]:
    """What is so of gradients to which others are added."""
    uncleared, writes = Uncleared(), Writes("*.grads")
    return (
        warned(_NAME, Leaks(), around=writes, within=TrainingPhase, compares=("*.grads",), hooks=False),
        warned(_NAME, uncleared.begin, before=writes, within=TrainingPhase, hooks=False),
        warned(_NAME, uncleared.end, after=writes, within=TrainingPhase, hooks=False),
    )


class Leaks:
    """Gradients that another loss has left, by somebody who only touches them, are cleared before any are added.

    Of a stage that makes gradients and steps the optimizer too, nobody can see from outside that it clears them.
    """

    def __init__(self) -> None:
        self._left: dict[str, str] = {}

    def __call__(self, state: Any, changed: tuple[str, ...], place: Place) -> str | None:
        written = {name.partition(".")[0] for name in place.access.writes if name.endswith(".grads")}
        for field in written & self._left.keys():
            gradients = [p.grad for p in state.components(nn.Module)[field].parameters()]
            who = self._left.pop(field)
            if who != place.path and not stepped(state, place) and any(has_any(gradient) for gradient in gradients):
                return f"{field}.grads still had what {who} left there: clear them first"
        for field in {name.partition(".")[0] for name in changed} - written:
            self._left[field] = place.path
        return None


class Added(NamedTuple):
    """Gradients that autograd has added to a parameter, as they were then.

    Attributes:
        gradient: the tensor, for as long as somebody has it.
        parameter: the version of the parameter: another one since then means an update.
    """

    gradient: "weakref.ref[Tensor]"
    parameter: int


class Uncleared:
    """Nothing is added to gradients that an update has used and nobody has cleared since, whoever should have.

    That is seen of one parameter for each module. Its gradient was there when the parameter changed, it is the same
    tensor still, and autograd adds to it before anybody else has touched it. Whoever scales what is left, to go on with
    a part of it, means that.
    """

    def __init__(self) -> None:
        self._added: dict[str, tuple[nn.Parameter, Added]] = {}
        self._open: list[Callable[[], None]] = []
        self._found: set[str] = set()

    def begin(self, state: Any, place: Place) -> None:
        """A stage that writes gradients begins."""
        self._close()
        for field in _written(place):
            parameter, before = self._added.get(field, (None, None))
            if parameter is None or parameter.grad is None or not parameter.requires_grad:
                parameter, before = _smallest(state.components(nn.Module)[field]), None
            if parameter is not None:
                self._watch(field, parameter, before)

    def end(self, place: Place) -> Wrong | None:
        """It has ended."""
        self._close()
        found = sorted(self._found.intersection(_written(place)))
        self._found.clear()
        if not found:
            return None
        told = f"{found[0]}.grads were still there when an update had used them, and more were added"
        return Wrong(f"{told}: clear them first, optimizer.zero_grad()", (f"{found[0]}.grads",))

    def _watch(self, field: str, parameter: nn.Parameter, before: Added | None) -> None:
        """Until `_close`, see what autograd adds to the gradient of this parameter."""
        old = parameter.grad
        is_used = before is not None and old is not None and before.gradient() is old
        is_used = is_used and before is not None and parameter._version > before.parameter and has_any(old)
        version = None if old is None or not is_used else old._version
        del old  # what is cleared is not kept alive

        def added(one: Tensor) -> None:
            nonlocal version
            gradient = one.grad
            if gradient is None:
                return
            known = self._added.get(field)
            is_same = known is not None and known[0] is one and known[1].gradient() is gradient
            if is_same and version is not None and gradient._version == version + 1:
                self._found.add(field)
            version = None  # only what comes first tells
            self._added[field] = parameter, Added(weakref.ref(gradient), one._version)

        hook = parameter.register_post_accumulate_grad_hook(added)  # type: ignore[no-untyped-call]
        self._open.append(hook.remove)

    def _close(self) -> None:
        while self._open:
            self._open.pop()()


def _written(place: Place) -> list[str]:
    """The modules whose gradients the stage at a place declares to write."""
    return sorted({name.partition(".")[0] for name in place.access.writes if name.endswith(".grads")})


def _smallest(module: nn.Module) -> nn.Parameter | None:
    """The smallest parameter that is to be trained."""
    trained = [one for one in module.parameters() if one.requires_grad and one.numel() and one.is_leaf]
    return min(trained, key=lambda one: one.numel(), default=None)


def has_any(gradient: Tensor | None) -> bool:
    """Whether an element is other than zero; so it is taken to be where that cannot be known."""
    if gradient is None:
        return False
    if gradient.is_meta or gradient.layout != torch.strided:
        return True
    return bool((gradient != 0).any())
