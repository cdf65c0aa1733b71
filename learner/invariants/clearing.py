"""What is so of gradients that are there already when others are added: they are meant, and no update has used them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from learner.invariants.standing import UPDATE, warned
from learner.invariants.updates import stepped
from stages import Invariant, TrainingPhase, Writes
from stages.invariants import Wrong
from stages.place import Place
from state.parts import optimized

_NAME = "an update uses gradients that were made for it"


def invariants() -> tuple[Invariant, ...]:
    """What is so of gradients to which others are added."""
    uncleared, writes = Uncleared(), Writes("*.grads")
    return (
        warned(_NAME, Leaks(), around=writes, within=TrainingPhase, compares=("*.grads",), hooks=False),
        warned(_NAME, uncleared.begin, before=writes, within=TrainingPhase, hooks=False),
        warned(_NAME, uncleared.end, after=writes, within=TrainingPhase, hooks=False),
        warned(_NAME, uncleared.updating, before=UPDATE, hooks=False),
        warned(_NAME, uncleared.updated, after=UPDATE, hooks=False),
    )


class Leaks:
    """Gradients that another loss has left, by somebody who only touches them, are cleared before any are added.

    Of a stage that makes gradients and steps the optimizer too, nobody can see from outside that it clears them.
    """

    def __init__(self) -> None:
        self._left: dict[str, str] = {}

    def __call__(self, state: Any, changed: tuple[str, ...], place: Place) -> str | None:
        written = place.access.owners("grads")
        for field in written & self._left.keys():
            gradients = [p.grad for p in state.components(nn.Module)[field].parameters()]
            who = self._left.pop(field)
            if who != place.path and not stepped(state, place) and any(has_any(gradient) for gradient in gradients):
                return f"{field}.grads still had what {who} left there: clear them first"
        for field in {name.partition(".")[0] for name in changed} - written:
            self._left[field] = place.path
        return None


class Uncleared:
    """No update uses gradients that an earlier one has used too: somebody clears them in between, whoever should.

    That is seen of one parameter of each module. What autograd adds at first is added to the very gradient that an
    optimizer has used, bit by bit, and the sum is used by the next step. Whoever scales what is left, to go on with a
    part of it, means that.
    """

    def __init__(self) -> None:
        self._watched: dict[str, nn.Parameter] = {}
        self._used: dict[str, Tensor] = {}  # the gradient that the last step has used
        self._piled: set[str] = set()  # where more was added to it
        self._found: set[str] = set()
        self._open: list[Callable[[], None]] = []
        self._stepping: list[Callable[[], None]] = []

    def begin(self, state: Any, place: Place) -> None:
        """A stage that writes gradients begins."""
        _close(self._open)
        modules = state.components(nn.Module)
        for field in [field for field in _written(place) if field in modules]:
            parameter = self._watched.get(field)
            if parameter is None or parameter.grad is None or not _is_in(parameter, modules[field]):
                parameter = _smallest(modules[field])
            if parameter is not None:
                if parameter is not self._watched.get(field):
                    self._watched[field] = parameter
                    self._used.pop(field, None)
                self._watch(field, parameter)

    def end(self) -> None:
        """It has ended."""
        _close(self._open)

    def updating(self, state: Any, place: Place) -> None:
        """A stage that steps an optimizer begins."""
        _close(self._stepping)
        self._stepping += [one.register_step_post_hook(self._stepped).remove for one in stepped(state, place)]

    def updated(self) -> Wrong | None:
        """It has ended."""
        _close(self._stepping)
        found, self._found = sorted(self._found), set()
        if not found:
            return None
        told = f"{found[0]}.grads were still there when an update had used them, and the next one used them again"
        return Wrong(f"{told}: clear them first, optimizer.zero_grad()", (f"{found[0]}.grads",))

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        held = set(map(id, optimized(optimizer)))
        for field, parameter in self._watched.items():
            if id(parameter) in held and parameter.grad is not None and parameter.grad.layout == torch.strided:
                self._found |= self._piled & {field}
                self._used[field] = parameter.grad.detach().clone()

    def _watch(self, field: str, parameter: nn.Parameter) -> None:
        """Until the stage has ended, or until it happened, see what autograd adds to the gradient of a parameter."""
        coming: list[Tensor] = []

        def added(one: Tensor) -> None:
            before.remove()
            after.remove()  # only what comes first tells
            used, gradient = self._used.get(field), one.grad
            self._piled.discard(field)
            if used is None or gradient is None or not coming or coming[0].shape != used.shape or not has_any(used):
                return
            if torch.equal(gradient, used + coming[0]) and not torch.equal(gradient, coming[0]):
                self._piled.add(field)

        before = parameter.register_hook(lambda gradient: coming.append(gradient.detach()))  # type: ignore[no-untyped-call]
        after = parameter.register_post_accumulate_grad_hook(added)  # type: ignore[no-untyped-call]
        self._open += [before.remove, after.remove]


def _close(hooks: list[Callable[[], None]]) -> None:
    while hooks:
        hooks.pop()()


def _written(place: Place) -> list[str]:
    """The modules whose gradients the stage at a place declares to write."""
    return sorted(place.access.owners("grads"))


def _smallest(module: nn.Module) -> nn.Parameter | None:
    """The smallest parameter that is to be trained."""
    trained = [one for one in module.parameters() if one.requires_grad and not is_lazy(one) and one.numel()]
    return min(trained, key=lambda one: one.numel(), default=None)


def _is_in(parameter: nn.Parameter, module: nn.Module) -> bool:
    return parameter.requires_grad and any(one is parameter for one in module.parameters())


def has_any(gradient: Tensor | None) -> bool:
    """Whether an element is other than zero; so it is taken to be where that cannot be known."""
    if gradient is None:
        return False
    if gradient.layout == torch.sparse_coo:
        gradient = gradient._values()
    if gradient.is_meta or gradient.layout != torch.strided:
        return True
    return bool((gradient != 0).any())
