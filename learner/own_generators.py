"""The random number generators that a loader holds itself, and their states as plain values and tensors."""

import random
import sys
from collections.abc import Mapping
from typing import Any

import torch

_WITHIN = ("", "dataset", "sampler", "batch_sampler", "batch_sampler.sampler")


def generators_of(loader: object) -> dict[str, Any]:
    """The generators of torch, numpy and Python that a loader, its dataset or its samplers hold, by dotted name.

    One that is reached by two names goes by the shorter one: "generator", "batch_sampler.sampler.generator".
    """
    numpy = sys.modules.get("numpy.random")
    kinds = (torch.Generator, random.Random, *(() if numpy is None else (numpy.Generator, numpy.RandomState)))
    found: dict[str, Any] = {}
    for part in _WITHIN:
        owner = _part(loader, part)
        for name, value in sorted(getattr(owner, "__dict__", {}).items()):
            if isinstance(value, kinds) and not any(value is known for known in found.values()):
                found[f"{part}.{name}" if part else name] = value
    return found


def states_of(loader: object) -> dict[str, Any]:
    """The states of `generators_of(loader)`: tensors for those of torch, plain values fit for JSON for the others."""
    return {name: _state(generator) for name, generator in generators_of(loader).items()}


def set_states(loader: object, states: Mapping[str, Any]) -> None:
    """Set the generators that a loader holds to states noted before; those that have none are left alone."""
    for name, generator in generators_of(loader).items():
        if name in states:
            _set(generator, states[name])


def _part(loader: object, path: str) -> object:
    for name in path.split(".") if path else ():
        loader = getattr(loader, name, None)
    return loader


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        return [version, list(words), gauss]
    if hasattr(generator, "get_state"):  # numpy's RandomState, which keeps the spare one of two Gaussian numbers
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.bit_generator.state)


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        version, words, gauss = state
        generator.setstate((version, tuple(words), gauss))
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def _plain(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if hasattr(state, "tolist") else state
