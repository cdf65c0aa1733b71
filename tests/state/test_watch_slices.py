"""Watch, where of large tensors a slice is read at a time."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from state import State, TrainState
from state.watch import Moved, Watch, moved


def large() -> State:
    model = nn.Linear(128, 160)
    return TrainState(model=model, optimizer=SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("turn", range(5))
def test_of_large_tensors_a_change_is_found_when_it_is_the_turn_of_its_slice(turn: int) -> None:
    state = large()
    watch = Watch(state)
    before = [watch.look(contents=True, turn=one) for one in range(5)]
    state.model.weight.data[32 * turn + 3, 5] += 1e-6
    found = [moved(old, watch.look(contents=True, turn=one)) for one, old in enumerate(before)]
    assert found == [[Moved("model.params", ("weight",), "contents")] if one == turn else [] for one in range(5)]


def test_of_large_tensors_whose_bits_were_not_both_read_the_counter_counts() -> None:
    state = large()
    watch = Watch(state)
    looks = [watch.look(contents=True, turn=turn) for turn in (None, 0, 1)]
    assert moved(looks[0], looks[1]) == moved(looks[1], looks[2]) == []
    with torch.no_grad():
        state.model.weight[0].add_(1)
    now = watch.look(contents=True, turn=1)
    assert [moved(look, now)[0].evidence for look in looks] == ["version", "version", "version"]
    assert moved(looks[1], watch.look(contents=True, turn=0))[0].evidence == "contents"
