"""Watch: each way to change something in place is found, under the right name and nothing else."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LRScheduler, StepLR

from state import State, TrainState, field
from state.watch import Moved, Watch, moved

numpy = pytest.importorskip("numpy")

Edit = Callable[["Everything"], object]


class Everything(TrainState):
    scheduler: LRScheduler
    hidden: Any = field(scope="phase", default=None)


def everything(optimizer: Any = None) -> Everything:
    """A state after a first update, so that nothing is made lazily any more."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        model[4].bias.zero_()
    made = (optimizer or Adam)(model.parameters(), lr=0.1)
    state = Everything(model=model, optimizer=made, scheduler=StepLR(made, 1))
    state.inputs, state.targets = torch.randn(5, 4), torch.randint(3, (5,))
    state.batch = (torch.randn(2, 2), {"mask": torch.ones(2)})
    backward(state)
    made.step()
    return state


def backward(state: Everything) -> None:
    nn.functional.cross_entropy(state.model(state.inputs), state.targets).backward()


def found(state: State, edit: Callable[[Any], object], *, contents: bool) -> list[Moved]:
    watch = Watch(state)
    before = watch.look(contents=contents)
    assert moved(before, watch.look(contents=contents)) == []
    edit(state)
    return moved(before, watch.look(contents=contents))


def no_grad(edit: Edit) -> Edit:
    return torch.no_grad()(edit)


def weight(state: Everything) -> Tensor:
    return state.model[0].weight


def swap_elements(state: Everything) -> None:
    flat = weight(state).view(-1)
    flat[[0, 1]] = flat[[1, 0]]


def negate_row(state: Everything) -> None:
    weight(state)[2] *= -1


def next_up(state: Everything) -> None:
    one = weight(state)[1, 1]
    one.copy_(torch.nextafter(one, torch.tensor(9.0)))


def swap_in(state: Everything) -> None:
    torch.utils.swap_tensors(state.model[0].weight, nn.Parameter(torch.zeros(8, 4)))


def new_data(state: Everything) -> None:
    state.model[0].weight.data = torch.zeros(8, 4)


def other_parameter(state: Everything) -> None:
    state.model[0].weight = nn.Parameter(torch.zeros(8, 4))


WEIGHT: dict[str, tuple[Edit, str | None]] = {
    "in place": (no_grad(lambda state: weight(state).mul_(2)), "version"),
    "one unit in the last place": (no_grad(next_up), "version"),
    "two elements swapped": (no_grad(swap_elements), "version"),
    "a row negated": (no_grad(negate_row), "version"),
    "all negated": (no_grad(lambda state: weight(state).neg_()), "version"),
    "rows permuted": (no_grad(lambda state: weight(state).copy_(weight(state).roll(1, 0))), "version"),
    ".data in place": (lambda state: weight(state).data.add_(1), None),
    ".data another": (new_data, "identity"),
    "storage filled": (lambda state: weight(state).untyped_storage().fill_(0), None),
    "alias of numpy": (lambda state: weight(state).detach().numpy().fill(1), None),
    "alias of dlpack": (lambda state: torch.from_dlpack(weight(state).detach()).add_(1), None),
    "swap_tensors": (swap_in, "identity"),
    "another parameter": (other_parameter, "identity"),
}


@pytest.mark.parametrize(("edit", "token"), WEIGHT.values(), ids=WEIGHT.keys())
def test_a_changed_weight_is_named_alone(edit: Edit, token: str | None) -> None:
    state = everything()
    state.optimizer.zero_grad()
    assert found(state, edit, contents=True) == [Moved("model.params", ("0.weight",), "contents")]
    state = everything()
    state.optimizer.zero_grad()
    expected = [Moved("model.params", ("0.weight",), token)] if token else []  # what tokens cannot see
    assert found(state, edit, contents=False) == expected


PARAMS = ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
RUNNING = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
MOMENTS = tuple(f"model.{name}.{kept}" for name in PARAMS for kept in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_a_step_of_any_optimizer_moves_parameters_and_its_state(kind: Any, way: Any) -> None:
    state = everything(lambda parameters, lr: kind(parameters, lr=lr, **way))
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    step = found(state, no_grad(lambda state: state.optimizer.step()), contents=True)
    assert [(each.name, each.evidence) for each in step] == [("model.params", "contents")] + (
        [] if kind is SGD else [("optimizer.state", "contents")]
    )
    assert step[0].inside == PARAMS


def to_double(state: Everything) -> None:
    state.model.double()


def from_vector(state: Everything) -> None:
    vector = nn.utils.parameters_to_vector(state.model.parameters()).detach()
    nn.utils.vector_to_parameters(vector + 1, state.model.parameters())


EDITS: dict[str, tuple[Edit, list[tuple[str, tuple[str, ...]]]]] = {
    "forward": (lambda s: s.model(s.inputs), [("model.buffers", RUNNING), ("rng", ("torch",))]),
    "backward": (
        lambda s: s.model.eval()(s.inputs).sum().backward() or s.model.train(),
        [("model.grads", PARAMS)],
    ),
    "dtype": (to_double, [("model.params", PARAMS), ("model.grads", PARAMS), ("model.buffers", RUNNING[:2])]),
    "vector": (from_vector, [("model.params", PARAMS)]),
    "load": (
        lambda s: s.model.load_state_dict({k: v + 1 for k, v in s.model.state_dict().items()}),
        [("model.params", PARAMS), ("model.buffers", RUNNING)],
    ),
    "a constant": (lambda s: s.model[4].bias.data.fill_(0.5), [("model.params", ("4.bias",))]),
    "running mean": (lambda s: s.model[1].running_mean.add_(1), [("model.buffers", RUNNING[:1])]),
    "mode of one": (lambda s: s.model[3].eval(), [("model.mode", ("3.training",))]),
    "frozen": (
        lambda s: s.model[0].weight.requires_grad_(False),
        [("model.mode", ("0.weight.requires_grad",))],
    ),
    "gradients gone": (lambda s: s.optimizer.zero_grad(), [("model.grads", PARAMS)]),
    "gradients zero": (lambda s: s.optimizer.zero_grad(set_to_none=False), [("model.grads", PARAMS)]),
    "gradient scaled": (lambda s: s.model[0].bias.grad.mul_(0.5), [("model.grads", ("0.bias",))]),
    "moments": (
        lambda s: s.optimizer.state[s.model[0].bias]["exp_avg"].zero_(),
        [("optimizer.state", ("model.0.bias.exp_avg",))],
    ),
    "moments gone": (lambda s: s.optimizer.state.clear(), [("optimizer.state", MOMENTS)]),
    "learning rate": (
        lambda s: s.optimizer.param_groups[0].update(lr=0.5),
        [("optimizer.hyper", ("lr",))],
    ),
    "a key of the group": (
        lambda s: s.optimizer.param_groups[0].update(momentum=0.5),
        [("optimizer.hyper", ("momentum",))],
    ),
    "another parameter in the group": (
        lambda s: s.optimizer.param_groups[0]["params"].append(nn.Parameter(torch.ones(1))),
        [("optimizer.hyper", ("params",))],
    ),
    "scheduler": (
        lambda s: s.optimizer.step() or s.scheduler.step(),
        [
            *(("model.params", PARAMS), ("optimizer.state", MOMENTS), ("optimizer.hyper", ("lr",))),
            ("scheduler.state", ("last_epoch", "_step_count", "_last_lr")),
        ],
    ),
    "draw of torch": (lambda s: torch.rand(1), [("rng", ("torch",))]),
    "draw of numpy": (lambda s: numpy.random.rand(), [("rng", ("numpy",))]),
    "draw of Python": (lambda s: random.random(), [("rng", ("python",))]),
    "inputs": (lambda s: s.inputs.mul_(2), [("inputs", ())]),
    "inputs by .data": (lambda s: s.inputs.data.mul_(2), [("inputs", ())]),
    "inputs with gradient": (lambda s: s.inputs.requires_grad_(), [("inputs", ("requires_grad",))]),
    "inside of a batch": (lambda s: s.batch[1]["mask"].zero_(), [("batch", ("1.mask",))]),
    "new in a batch": (lambda s: s.batch[1].update(more=torch.ones(1)), [("batch", ("1.more",))]),
}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_is_found_where_it_is_and_nowhere_else(edit: Edit, expected: list[Any]) -> None:
    assert [(each.name, each.inside) for each in found(everything(), edit, contents=True)] == expected


def clip_nothing(state: Everything) -> None:
    nn.utils.clip_grad_norm_(state.model.parameters(), 1e9)


def swap_and_back(state: Everything) -> None:
    for _ in range(2):
        for parameter in state.model.parameters():
            parameter.data.neg_()


HARMLESS: dict[str, Edit] = {
    "nothing": lambda s: None,
    "clip that clips nothing": clip_nothing,
    "adding zero": no_grad(lambda s: s.model[0].weight.add_(0)),
    "swapped and back": swap_and_back,
    "moved to where it is": lambda s: s.model.to("cpu", torch.float32),
    "loading what it has": lambda s: s.model.load_state_dict({k: v.clone() for k, v in s.model.state_dict().items()}),
    "the optimizer too": lambda s: s.optimizer.load_state_dict(s.optimizer.state_dict()),
    "another memory": lambda s: setattr(s.model[0].weight, "data", s.model[0].weight.data.clone()),
    "looking": lambda s: (s.model.state_dict(), s.optimizer.state_dict(), repr(s), s.ready("inputs")),
    "no_grad forward in eval mode": lambda s: (s.model.eval()(s.inputs), s.model.train()),
    "a field written": lambda s: setattr(s, "inputs", torch.zeros(5, 4)),
    "a field written twice": lambda s: [
        setattr(s, "batch", (torch.zeros(2, 2), {"mask": torch.zeros(2)})) for _ in "ab"
    ],
    "a component written": lambda s: setattr(s, "model", nn.Linear(4, 3, device="meta")),
}


@pytest.mark.parametrize("edit", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_leaves_the_bits_as_they_are_is_no_move(edit: Edit) -> None:
    state = everything()
    assert found(state, edit, contents=True) == []


def test_state_that_is_made_lazily_is_a_move() -> None:
    state = everything()
    state.optimizer.state.clear()
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert found(state, lambda state: state.optimizer.step(), contents=True) == [
        Moved("optimizer.state", MOMENTS, "identity")
    ]


def test_a_new_parameter_group_is_a_move_of_what_the_groups_hold() -> None:
    [move] = found(
        everything(), lambda s: s.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]}), contents=True
    )
    assert (move.name, move.evidence, move.inside[0]) == ("optimizer.hyper", "value", "params")


def test_a_tied_parameter_counts_under_each_name_and_in_each_field() -> None:
    class Two(TrainState):
        teacher: nn.Module
        head: nn.Module

    shared = nn.Linear(2, 2, bias=False)
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight = shared.weight
    state = Two(model=tied, teacher=tied, head=shared)
    assert found(state, lambda state: shared.weight.data.zero_(), contents=True) == [
        Moved("model.params", ("0.weight", "1.weight"), "contents"),
        Moved("teacher.params", ("0.weight", "1.weight"), "contents"),
        Moved("head.params", ("weight",), "contents"),
    ]


def test_another_object_with_the_same_bits_is_a_move_of_parameters_and_buffers_only() -> None:
    def renew(state: Everything) -> None:
        state.model[0].weight = nn.Parameter(state.model[0].weight.detach().clone())
        state.model[1].running_mean = state.model[1].running_mean.clone()
        state.model[4].bias.grad = state.model[4].bias.grad.clone()
        state.optimizer.state[state.model[4].bias]["exp_avg"] = state.optimizer.state[state.model[4].bias][
            "exp_avg"
        ].clone()

    moves = {each.name: each for each in found(everything(), renew, contents=True)}
    assert moves["model.params"] == Moved("model.params", ("0.weight",), "identity")
    assert moves["model.buffers"] == Moved("model.buffers", ("1.running_mean",), "identity")
    assert moves["model.grads"] == Moved("model.grads", ("0.weight",), "identity")  # the new parameter has none
    assert len(moves) == 3


def test_plain_looks_see_flags_and_groups() -> None:
    state = everything()
    watch = Watch(state)
    first = watch.plain()
    assert first.parts.keys() == {"model.mode", "optimizer.hyper"}
    assert watch.plain() is first
    whole = watch.look(contents=True)
    assert moved(first, whole) == moved(whole, watch.plain()) == []
    edits: list[tuple[Edit, Moved]] = [
        (lambda s: s.model[3].eval(), Moved("model.mode", ("3.training",), "value")),
        (lambda s: s.model[0].bias.requires_grad_(False), Moved("model.mode", ("0.bias.requires_grad",), "value")),
        (lambda s: s.scheduler.step(), Moved("optimizer.hyper", ("lr",), "value")),
        (lambda s: s.optimizer.param_groups[0]["params"].pop(), Moved("optimizer.hyper", ("params",), "value")),
        (lambda s: s.optimizer.param_groups[0].update(betas=[0.5, 0.5]), Moved("optimizer.hyper", ("betas",), "value")),
        (lambda s: s.optimizer.param_groups[0]["betas"].append(1), Moved("optimizer.hyper", ("betas",), "value")),
    ]
    for edit, expected in edits:
        before = watch.plain()
        edit(state)
        assert moved(before, watch.plain()) == [expected]
        assert moved(watch.plain(), watch.plain()) == []


def test_plain_looks_follow_a_component_that_was_written() -> None:
    state = everything()
    watch = Watch(state)
    before = watch.plain()
    state.model = nn.Linear(1, 1)
    after = watch.plain()
    assert moved(before, after) == []
    state.model.eval()
    assert moved(after, watch.plain()) == [Moved("model.mode", ("training",), "value")]


def test_a_look_at_some_parts_sees_these_alone() -> None:
    state = everything()
    watch = Watch(state)
    names = ("model.params", "inputs", "rng", "nothing.params")
    before = watch.look_at(names, contents=True)
    assert before.parts.keys() == {"model.params", "inputs", "rng"}
    state.model.train()(state.inputs)
    state.inputs.zero_()
    assert [each.name for each in moved(before, watch.look_at(names, contents=True))] == ["inputs", "rng"]
    assert [each.name for each in moved(before, watch.look(contents=True))] == ["inputs", "rng"]


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


def test_looks_of_two_kinds_are_compared_by_what_both_know() -> None:
    state = everything()
    watch = Watch(state)
    tokens = watch.look(contents=False)
    assert moved(tokens, watch.look(contents=True)) == []
    state.model[0].weight.data.add_(1)
    assert moved(tokens, watch.look(contents=True)) == []
    with torch.no_grad():
        state.model[0].weight.add_(1)
    assert moved(tokens, watch.look(contents=True)) == [Moved("model.params", ("0.weight",), "version")]
