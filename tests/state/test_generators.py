"""Generators: each draw is seen, and seeing draws nothing."""

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from state.generators import Generators


@pytest.mark.parametrize("way", ["found", "asked for"])
def test_a_draw_moves_the_generator_it_is_from(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("numpy")
    if way == "asked for":  # as where the words of Python's generator are not found
        monkeypatch.setattr(sys.implementation, "name", "another")
    generators = Generators()
    draws: dict[str, list[Callable[[], Any]]] = {
        "torch": [lambda: torch.rand(1), lambda: torch.randn(1), lambda: torch.randn(1)],
        "python": [random.random, lambda: random.gauss(0, 1), lambda: random.gauss(0, 1)],
        "numpy": [numpy.random.rand, numpy.random.randn, numpy.random.randn, numpy.random.randn],
    }
    for name, ways in draws.items():
        for draw in ways:
            before = generators.look(contents=True)
            assert generators.look(contents=True) == before
            draw()
            after = generators.look(contents=True)
            assert {key for key in after if after[key] != before[key]} == {name}


def test_another_bit_generator_of_numpy_is_looked_at_as_well() -> None:
    numpy = pytest.importorskip("numpy")
    usual = numpy.random.get_bit_generator()
    numpy.random.set_bit_generator(numpy.random.PCG64(1))
    try:
        generators = Generators()
        before = generators.look(contents=True)
        assert generators.look(contents=True) == before
        for draw in (numpy.random.rand, numpy.random.randn, numpy.random.randn):
            before = generators.look(contents=True)
            draw()
            assert generators.look(contents=True)["numpy"] != before["numpy"]
    finally:
        numpy.random.set_bit_generator(usual)


def test_generators_of_a_device_are_looked_at_if_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cuda:0" not in Generators().look(contents=False) or torch.cuda.is_initialized()
    generator = torch.Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    before = Generators().look(contents=False)
    torch.rand(1, generator=generator)
    after = Generators().look(contents=False)
    assert before.keys() == after.keys() == {"torch", "cuda:0"}
    assert before["cuda:0"] != after["cuda:0"]
