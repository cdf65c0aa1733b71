"""Snapshot: everything in a State that a run goes on from, taken and given back."""

import random
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial as partial_of
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from state.captured import (
    Apply,
    Load,
    capture_module,
    capture_optimizer,
    capture_stateful,
    load_all,
    restore_module,
    restore_optimizer,
    restore_stateful,
)
from state.errors import SnapshotError, StateError, nearest, suggestion
from state.fields import MISSING, FieldSpec
from state.memory import Memory
from state.packing import Packer, unpack
from state.parts import parts_of
from state.schema import build
from state.state import State
from state.tensor_files import identity
from state.undoing import Undo, remembered

VALUES = "_values"
"""The group of all tensors that are in no module's `state_dict`. No field can have that name."""


@dataclass
class Snapshot:
    """What a State held: named groups of tensors, and a document of plain values.

    Attributes:
        tensors: for each field with a module its `state_dict`, if that has any, and `_values` for all other tensors.
        document: by field what kind of thing it held and its values; the generators; all as JSON can hold it.
    """

    tensors: dict[str, dict[str, Tensor]]
    document: dict[str, Any]

    @classmethod
    def of(cls, state: State, *, grads: Collection[str] = (), cleared: Collection[int] = ()) -> "Snapshot":
        """Take one. The tensors are those of the State itself and go on changing with it: see `cloned`.

        Args:
            state: its fields that are marked as saved, of all scopes that are open, and the generators.
            grads: the fields of modules whose gradients are needed too.
            cleared: ids of parameters whose gradients are not, as they are cleared before anybody reads them.

        Raises:
            SnapshotError: a field holds what a checkpoint cannot hold.
        """
        packer, tensors, fields = Packer(), {}, {}
        names = {id(parameter): name for name, parameter in parameters_of(state).items()}
        for name, value in state.__dict__.items():
            if not is_kept(type(state).specs[name], value):
                continue
            kind = kind_of(value)
            if kind == "module":
                saved, rest = capture_module(value, name, packer, grads=name in grads, cleared=cleared)
                if saved:  # else there is nothing to have a file of
                    tensors[name] = saved
            elif kind == "optimizer":
                rest = capture_optimizer(value, name, names, packer)
            elif kind == "stateful":
                rest = capture_stateful(value, name, packer)
            else:
                rest = packer.pack(value, name)
            fields[name] = {kind: rest}
        generators = {name: packer.pack(value, f"rng.{name}") for name, value in read_generators().items()}
        tensors[VALUES] = packer.tensors
        return cls(tensors, {"fields": fields, "generators": generators})

    def cloned(self, memory: Memory | None = None) -> "Snapshot":
        """The same with tensors of its own, on the CPU; two names of one tensor stay that.

        Args:
            memory: where the copies are put, over those of a snapshot before this one that nobody needs any more.
                A tensor that is not dense, which no checkpoint can hold, is not copied.
        """
        dense = {
            identity(tensor): tensor
            for tensors in self.tensors.values()
            for tensor in tensors.values()
            if tensor.layout is torch.strided
        }
        copies = dict(zip(dense, (memory or Memory()).like(dense.values()), strict=True))
        with torch.no_grad():
            for key, tensor in dense.items():
                copies[key].copy_(tensor)
        groups = {
            group: {name: copies.get(identity(tensor), tensor) for name, tensor in tensors.items()}
            for group, tensors in self.tensors.items()
        }
        return Snapshot(groups, self.document)


_MISFIT = ("The checkpoint does not fit this State", "Leave out by partial=[...] what is to stay as it is.")


@dataclass
class Restoration:
    """What is to be done to a State so that it holds a snapshot, checked as a whole before anything is done.

    Attributes:
        scoped: values of fields that live shorter than the run, which are given when their scopes are open.
    """

    state: State
    loads: list[Load] = field(default_factory=list)
    applies: list[Apply] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    scoped: dict[str, Any] = field(default_factory=dict)
    stateful: dict[str, Any] = field(default_factory=dict)
    generators: dict[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, state: State, snapshot: Snapshot, *, partial: Iterable[str] = (), misfit: tuple[str, str] = _MISFIT
    ) -> "Restoration":
        """Check a snapshot against a State.

        Args:
            partial: patterns of fields to leave as they are, in the snapshot or not: "optimizer", "best_*".
            misfit: how the error begins, and what it ends with.

        Raises:
            SnapshotError: it does not fit; everything that does not, by name.
        """
        self, specs, problems = cls(state), type(state).specs, []
        patterns, found = tuple(partial), snapshot.document["fields"]
        self.tensors = snapshot.tensors.get(VALUES, {})
        known = {*specs, *found}
        unused = [one for one in patterns if not any(fnmatch(name, one) for name in known)]
        if unused:
            raise SnapshotError(f"partial= names {unused}, and there is no such field.{_near(unused[0], known)}")
        wanted = [name for name in found if not any(fnmatch(name, one) for one in patterns)]
        missing = [
            name
            for name, value in state.__dict__.items()
            if is_kept(specs[name], value) and specs[name].scope == "run" and name not in found
            if not any(fnmatch(name, one) for one in patterns)
        ]
        for name in wanted:
            if name not in specs:
                problems.append(f"it has the field {name!r}, which State has not.{_near(name, specs)}")
                continue
            try:
                self._prepare(name, found[name], snapshot)
            except (StateError, KeyError, TypeError, ValueError) as error:
                problems.append(str(error) if isinstance(error, SnapshotError) else f"{name}: {error}")
        problems += [f"it has nothing for the field {name!r}.{_near(name, found)}" for name in missing]
        if problems:
            raise SnapshotError(f"{misfit[0]}:\n- " + "\n- ".join(problems) + f"\nNothing was changed. {misfit[1]}")
        self.generators = {name: unpack(value, self.tensors) for name, value in snapshot.document["generators"].items()}
        return self

    def apply(self) -> None:
        """Give the run's fields what they held. What a component itself may refuse comes first, and is undone then.

        Raises:
            SnapshotError: one of them refuses, or a derived value cannot be made; all is as it was.
        """
        specs = type(self.state).specs.values()
        derived = [s.name for s in specs if s.saved == "derived" and s.scope == "run" and s.factory is not None]
        undo = remembered(self.state) if derived else None  # of what they are made is known when all is given
        load_all(self.loads)
        for apply in self.applies:
            apply()
        values = self.state.__dict__
        values.update(self.values)
        if undo is not None:
            self._derive(derived, undo)

    def apply_scoped(self, is_open: Callable[[str], bool]) -> None:
        """Give the fields of scopes that are open now what they held."""
        values, specs = self.state.__dict__, type(self.state).specs
        values.update({name: value for name, value in self.scoped.items() if is_open(specs[name].scope)})
        for name, rest in self.stateful.items():
            if not is_open(specs[name].scope):
                continue
            load, apply = restore_stateful(values[name], name, rest, self.tensors, _device(self.state))
            load_all([load])
            apply()

    def apply_generators(self) -> None:
        """Put the random number generators where they were."""
        write_generators(self.generators)

    def _derive(self, names: list[str], undo: Undo) -> None:
        for name in names:
            self.state.__dict__.pop(name, None)
        try:
            build(self.state)
        except BaseException as error:
            unmade = [name for name in names if name not in self.state.__dict__]
            undo()
            if not isinstance(error, Exception):
                raise
            told = f"Of the derived fields {unmade} one could not be made of what the checkpoint has"
            raise SnapshotError(f"{told}: {type(error).__name__}: {error}. Nothing was changed.") from error

    def _prepare(self, name: str, found: Mapping[str, Any], snapshot: Snapshot) -> None:
        spec: FieldSpec = type(self.state).specs[name]
        ((kind, rest),) = found.items()
        value = self.state.__dict__.get(name, MISSING)
        if spec.scope != "run":
            if kind == "stateful":
                self.stateful[name] = rest
            else:
                self.scoped[name] = spec.validate(self._unpacked(rest), "checkpoint")
            return
        if value is not MISSING and kind_of(value) != kind:
            raise SnapshotError(f"{name}: it holds a {kind}, and State a {type(value).__name__}")
        if kind == "module":
            saved = snapshot.tensors.get(name, {})
            loads, apply = restore_module(value, name, saved, rest, self.tensors)
            self.loads += loads
            self.applies.append(apply)
        elif kind == "optimizer":
            self.applies.append(restore_optimizer(value, name, rest, parameters_of(self.state), self.tensors))
        elif kind == "stateful":
            load, apply = restore_stateful(value, name, rest, self.tensors, _device(self.state))
            self.loads.append(load)
            self.applies.append(apply)
        elif isinstance(value, nn.Parameter):  # an optimizer may hold it
            self.applies.append(partial_of(_fill, value, self._unpacked(rest)))
        else:
            self.values[name] = spec.validate(self._unpacked(rest), "checkpoint")

    def _unpacked(self, rest: Any) -> Any:
        return unpack(rest, self.tensors, _device(self.state))


def is_kept(spec: FieldSpec, value: Any) -> bool:
    """Whether a checkpoint holds a field; of a loss that is a module it holds the tensors, which may be trained."""
    return spec.saved == "saved" or (spec.name == "loss_fn" and isinstance(value, nn.Module))


def kind_of(value: Any) -> str:
    """What a checkpoint does with a value: "module", "optimizer", "stateful" or "value"."""
    parts = parts_of(type(value))
    if "params" in parts:
        return "module"
    if isinstance(value, Optimizer):
        return "optimizer"
    return "stateful" if parts else "value"


def parameters_of(state: State) -> dict[str, Tensor]:
    """The parameters of all modules in a State, by field and dotted name: "model.0.weight"; tied ones under each."""
    modules = {name: value for name, value in state.__dict__.items() if isinstance(value, nn.Module)}
    return {
        f"{name}.{key}": parameter
        for name, module in reversed(modules.items())
        for key, parameter in reversed(list(module.named_parameters(remove_duplicate=False)))
    }


def read_generators() -> dict[str, Any]:
    """The states of the generators: of torch, of each CUDA device in use, of Python, and of numpy if it is in use."""
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    for index, generator in enumerate(torch.cuda.default_generators):  # none until CUDA is in use
        found[f"cuda:{index}"] = generator.get_state()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        found["numpy"] = numpy.random.get_state(legacy=False)
    return found


def write_generators(states: Mapping[str, Any]) -> None:
    """Put the generators where they were. Of devices that are not there nothing is restored."""
    for name, value in states.items():
        if name == "torch":
            torch.set_rng_state(value)
        elif name == "python":
            random.setstate(value)
        elif name == "numpy":
            import numpy

            numpy.random.set_state(value)
        elif int(name.removeprefix("cuda:")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(value, name)


def _fill(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def _device(state: State) -> torch.device | None:
    device = state.__dict__.get("device")
    return device if isinstance(device, torch.device) else None


def _near(name: str, known: Iterable[str]) -> str:
    return suggestion(nearest(name, known))
