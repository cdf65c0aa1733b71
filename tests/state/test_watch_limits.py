"""Watch at its limits: odd tensors, what it must leave alone, and what it must let go."""

import gc
import random
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam

from state import State, TrainState, field
from state.watch import Moved, Watch, moved


class Wrapping(Tensor):
    """A subclass that holds another tensor and has no memory of its own."""

    inner: Tensor

    def __new__(cls, inner: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner  # type: ignore[attr-defined]
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(function)


def with_parameter(tensor: Tensor) -> nn.Module:
    module = nn.Module()
    module.register_buffer("odd", tensor)
    return module


def inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3)


def freed() -> Tensor:
    tensor = torch.ones(8)[2:]
    tensor.untyped_storage().resize_(0)
    return tensor


MODULES: dict[str, Callable[[], nn.Module]] = {
    "sparse": lambda: with_parameter(torch.eye(2).to_sparse()),
    "compressed": lambda: with_parameter(torch.eye(2).to_sparse_csr()),
    "inference": lambda: with_parameter(inference()),
    "freed": lambda: with_parameter(freed()),
    "wrapping": lambda: with_parameter(Wrapping(torch.ones(2))),
    "meta": lambda: nn.Linear(2, 2, device="meta"),
    "lazy": lambda: nn.LazyLinear(2),
    "sparse gradients": lambda: nn.Embedding(3, 2, sparse=True),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    "recurrent": lambda: nn.LSTM(2, 2),
    "empty": nn.Identity,
    "none of it": lambda: nn.BatchNorm1d(2, affine=False, track_running_stats=False),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
def test_odd_modules_are_looked_at_without_an_error_or_an_alarm(make: Callable[[], nn.Module]) -> None:
    state = TrainState(model=make())
    watch = Watch(state)
    for contents in (True, False):
        assert moved(watch.look(contents=contents), watch.look(contents=contents)) == []
    assert moved(watch.plain(), watch.plain()) == []


def test_tokens_stand_in_where_there_are_no_bits() -> None:
    state = TrainState(model=nn.Embedding(3, 2, sparse=True))
    state.model(torch.tensor([1])).sum().backward()
    watch = Watch(state)
    before = watch.look(contents=True)
    state.model.weight.grad.mul_(2)
    assert moved(before, watch.look(contents=True)) == [Moved("model.grads", ("weight",), "version")]


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_module_that_gets_its_parameters_has_not_moved() -> None:
    state = TrainState(model=nn.LazyLinear(2))
    watch = Watch(state)
    before = watch.look(contents=True)
    state.model(torch.ones(1, 3))
    assert "model.params" not in {each.name for each in moved(before, watch.look(contents=True))}


def test_an_optimizer_with_nested_state_is_looked_at() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = LBFGS([weight], history_size=3)
    state = TrainState(optimizer=optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    watch = Watch(state)
    before = watch.look(contents=True)
    assert moved(before, watch.look(contents=True)) == []
    optimizer.state[weight]["old_dirs"][0].zero_()
    assert moved(before, watch.look(contents=True)) == [Moved("optimizer.state", ("0.old_dirs.0",), "contents")]


class Keeper:
    """Has its state in a copy each time, as many do."""

    def __init__(self) -> None:
        self.sums, self.names = torch.zeros(3), ["a"]

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums.clone(), "names": list(self.names)}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Failing(Keeper):
    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("not now")


class Kept(TrainState):
    keeper: Keeper
    failing: Failing
    loader: Keeper = field(saved="volatile", because="made anew")


@pytest.mark.parametrize("contents", [True, False])
def test_state_counts_by_what_is_in_it(contents: bool) -> None:
    state = Kept(keeper=Keeper(), failing=Failing(), loader=Keeper())
    watch = Watch(state)
    before = watch.look(contents=contents)
    assert {name for name in before.parts if name.endswith(".state")} == {"keeper.state"}
    assert moved(before, watch.look(contents=contents)) == []
    state.keeper.sums += 1
    state.keeper.names.append("b")
    state.loader.sums += 1
    assert moved(before, watch.look(contents=contents)) == [Moved("keeper.state", ("sums", "names"), "contents")]


def test_looking_changes_nothing() -> None:
    numpy = pytest.importorskip("numpy")
    model = nn.Sequential(nn.Linear(2, 300), nn.BatchNorm1d(300), nn.Linear(300, 300))
    state = TrainState(model=model, optimizer=Adam(model.parameters()))
    state.inputs = torch.randn(4, 2, requires_grad=True)
    state.outputs = model(state.inputs)
    state.loss = state.outputs.sum()
    state.loss.backward(retain_graph=True)

    def facts() -> list[Any]:
        tensors = [*model.parameters(), *model.buffers(), state.inputs, state.outputs, state.loss]
        seen: list[Any] = [(t._version, t.data_ptr(), t.requires_grad, t.is_leaf, t._use_count()) for t in tensors]
        drawn = [torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()]
        return seen + drawn + [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]

    watch = Watch(state)
    before = facts()
    looks = [
        watch.look(contents=True),
        watch.look(contents=False),
        watch.plain(),
        watch.look_at(["loss"], contents=True),
    ]
    assert facts() == before
    state.loss.backward()  # no saved tensor counts as changed in place
    assert len(looks) == 4


def test_a_look_inside_of_other_modes_is_the_same_look() -> None:
    state = TrainState(model=nn.Linear(300, 300))
    watch = Watch(state)
    before = watch.look(contents=True)
    with torch.inference_mode():
        assert moved(before, watch.look(contents=True)) == []
    with torch.no_grad(), torch.autocast("cpu"), torch.device("meta"):
        assert moved(before, watch.look(contents=True)) == []


def test_a_look_keeps_no_graph_and_no_gradient_alive() -> None:
    model = nn.Linear(2, 2)
    state = TrainState(model=model)
    state.outputs = model(torch.ones(1, 2))
    state.loss = state.outputs.sum()
    state.loss.backward()
    watch = Watch(state)
    looks = [watch.look(contents=True), watch.look(contents=False), watch.plain()]
    gone = [weakref.ref(each) for each in (state.outputs, state.loss, model.weight.grad)]
    model.zero_grad()
    del state.__dict__["outputs"], state.__dict__["loss"]
    gc.collect()
    assert [each() for each in gone] == [None, None, None]
    assert len(looks) == 3


def test_a_lasting_look_keeps_no_batch_alive() -> None:
    state = TrainState(model=nn.Linear(2, 2))
    state.batch = [torch.ones(2, requires_grad=True) * 2]
    watch = Watch(state)
    look, plain = watch.look(contents=True), watch.plain()
    gone = weakref.ref(state.batch[0])
    del state.__dict__["batch"]
    gc.collect()
    assert gone() is not None
    look = look.lasting()
    assert "batch" not in plain.holders
    gc.collect()
    assert gone() is None
    state.model.eval()
    assert moved(look, Watch(state).look(contents=True)) == [Moved("model.mode", ("training",), "value")]


def test_old_parameters_are_let_go_with_the_next_look() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    state = TrainState(model=model, optimizer=SGD(model.parameters(), lr=1))
    watch = Watch(state)
    look = watch.look(contents=True)
    watch.plain()
    gone = [weakref.ref(model[0]), weakref.ref(state.optimizer)]
    model[0], state.optimizer = nn.Linear(2, 2), SGD(model.parameters(), lr=1)
    look = watch.look(contents=True)
    watch.plain()
    gc.collect()
    assert [each() for each in gone] == [None, None]
    assert look.parts


def test_an_identity_that_is_used_again_deceives_nobody() -> None:
    state = TrainState(model=nn.Sequential(nn.Linear(2, 2)))
    watch = Watch(state)
    for contents in (True, False):
        for _ in range(20):
            before = watch.look(contents=contents)
            weight = state.model[0].weight.detach().clone()
            state.model[0].weight = None
            state.model[0].weight = nn.Parameter(weight)
            assert [each.name for each in moved(before, watch.look(contents=contents))] == ["model.params"]


def test_a_value_in_the_place_of_a_freed_one_was_written() -> None:
    state = TrainState()
    watch = Watch(state)
    state.loss = torch.zeros(1)
    state.batch = {"x": torch.zeros(1)}
    for number in range(20):
        before = watch.look(contents=True)
        del state.__dict__["loss"], state.__dict__["batch"]
        state.loss = torch.full((1,), float(number))
        state.batch = {"x": torch.full((1,), float(number))}
        assert moved(before, watch.look(contents=True)) == []


class Fresh(Mapping[str, Tensor]):
    """Makes its tensors when they are asked for."""

    def __getitem__(self, key: str) -> Tensor:
        return torch.full((1,), float(key))

    def __iter__(self) -> Iterator[str]:
        return map(str, range(len(self)))

    def __len__(self) -> int:
        return 30


def test_tensors_that_are_made_when_asked_for_are_not_confused() -> None:
    state = TrainState()
    state.batch = Fresh()
    watch = Watch(state)
    look = watch.look(contents=True)
    assert len({seen.bits for seen in look.parts["batch"].values}) == 30
    assert moved(look, watch.look(contents=True)) == []


def test_a_generator_that_only_one_look_saw_did_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(State())
    before = watch.look(contents=True)
    monkeypatch.setattr(torch.cuda, "default_generators", (torch.Generator(),))
    assert moved(before, watch.look(contents=True)) == []
    torch.rand(1)
    assert moved(before, watch.look(contents=True)) == [Moved("rng", ("torch",), "value")]


@pytest.mark.slow
def test_compiled_code_is_seen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = TrainState(model=torch.compile(model, backend="aot_eager"))
    watch = Watch(state)
    before = watch.look(contents=True)
    state.model(torch.randn(3, 2, generator=torch.Generator())).sum().backward()
    names = [each.name for each in moved(before, watch.look(contents=True))]
    assert names == ["model.grads", "model.buffers"]


@pytest.mark.gpu
def test_a_model_on_a_device_is_seen() -> None:
    model = nn.Linear(300, 300).cuda()
    state = TrainState(model=model, optimizer=Adam(model.parameters()))
    watch = Watch(state)
    before = watch.look(contents=True)
    assert moved(before, watch.look(contents=True)) == []
    model.bias.data[3] += 1
    torch.rand(1, device="cuda")
    assert moved(before, watch.look(contents=True)) == [
        Moved("model.params", ("bias",), "contents"),
        Moved("rng", ("cuda:0",), "value"),
    ]
