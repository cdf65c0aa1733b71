"""Each way to change something in place, in each kind of actor: the violation names who, what, and the remedy."""

import random
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from learner import Learner, stage
from stages import UndeclaredChange

numpy = pytest.importorskip("numpy")

Edit = Callable[[nn.Module, Optimizer], object]
BATCH = "train/epoch/fit/batch"
WEIGHTS = ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias")
RUNNING = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
MOMENTS = tuple(f"model.{name}.{kept}" for name in WEIGHTS for kept in ("step", "exp_avg", "exp_avg_sq"))


def make(**settings: Any) -> Learner:
    """A small model with BatchNorm, whose optimizer has taken a step, so that nothing is made lazily any more."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = Adam(model.parameters(), lr=0.1)
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(6)]
    return Learner(model, nn.functional.mse_loss, optimizer, train=batches, device="cpu", **settings)


def weight(model: nn.Module) -> torch.Tensor:
    found: torch.Tensor = model.get_parameter("0.weight")
    return found


def next_up(model: nn.Module, optimizer: Optimizer) -> None:
    with torch.no_grad():
        weight(model)[1, 1] = torch.nextafter(weight(model)[1, 1], torch.tensor(9.0))


def swap_elements(model: nn.Module, optimizer: Optimizer) -> None:
    flat = weight(model).detach().view(-1)
    flat[[0, 1]] = flat[[1, 0]]


def swap_in(model: nn.Module, optimizer: Optimizer) -> None:
    torch.utils.swap_tensors(model[0].weight, nn.Parameter(torch.zeros(3, 2)))


def from_vector(model: nn.Module, optimizer: Optimizer) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(vector + 1, model.parameters())


def load(model: nn.Module, optimizer: Optimizer) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def step_of_another(kind: Any, **way: Any) -> Edit:
    return lambda model, optimizer: kind(model.parameters(), lr=0.5, **way).step()


def in_group(**values: Any) -> Edit:
    return lambda model, optimizer: optimizer.param_groups[0].update(values)


def new_group(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


ONE = {"model.params": ("0.weight",)}
ALL = {"model.params": WEIGHTS}
ROUTES: dict[str, tuple[Edit, dict[str, tuple[str, ...]], bool]] = {  # the edit, what moves, whether tokens show it
    "in place": (lambda m, o: weight(m).detach().mul_(2), ONE, True),
    "one unit in the last place": (next_up, ONE, True),
    "two elements swapped": (swap_elements, ONE, True),
    "a row negated": (lambda m, o: weight(m).detach()[2].neg_(), ONE, True),
    "a row negated by .data": (lambda m, o: weight(m).data[2].neg_(), ONE, False),
    ".data in place": (lambda m, o: weight(m).data.add_(1), ONE, False),
    ".data another": (lambda m, o: setattr(weight(m), "data", torch.zeros(3, 2)), ONE, True),
    "storage filled": (lambda m, o: weight(m).untyped_storage().fill_(1), ONE, False),
    "alias of numpy": (lambda m, o: weight(m).detach().numpy().fill(1), ONE, False),
    "alias of dlpack": (lambda m, o: torch.from_dlpack(weight(m).detach()).add_(1), ONE, False),
    "swap_tensors": (swap_in, {**ONE, "model.grads": ("0.weight",)}, True),
    "vector_to_parameters": (from_vector, ALL, True),
    "step of another, one by one": (step_of_another(SGD, foreach=False), ALL, True),
    "step of another, foreach": (step_of_another(SGD, foreach=True), ALL, True),
    "step of another, fused": (step_of_another(Adam, fused=True), ALL, False),
    "step of its own": (lambda m, o: o.step(), {**ALL, "optimizer.state": MOMENTS}, True),
    "load_state_dict": (load, {**ALL, "model.buffers": RUNNING}, True),
    "module.to": (
        lambda m, o: m.to(torch.float64),
        {**ALL, "model.grads": WEIGHTS, "model.buffers": RUNNING[:2]},
        True,
    ),
    "statistics of BatchNorm": (lambda m, o: m(torch.ones(4, 2)), {"model.buffers": RUNNING}, True),
    "eval mode": (lambda m, o: m.eval(), {"model.mode": tuple(f"{n}training" for n in ("", "0.", "1.", "2."))}, True),
    "frozen": (lambda m, o: m[0].bias.requires_grad_(False), {"model.mode": ("0.bias.requires_grad",)}, True),
    "learning rate": (in_group(lr=0.5), {"optimizer.hyper": ("lr",)}, True),
    "betas": (in_group(betas=(0.5, 0.5)), {"optimizer.hyper": ("betas",)}, True),
    "moments": (
        lambda m, o: o.state[m[0].bias]["exp_avg"].fill_(7),
        {"optimizer.state": ("model.0.bias.exp_avg",)},
        True,
    ),
    "gradient": (lambda m, o: m[0].bias.grad.fill_(7), {"model.grads": ("0.bias",)}, True),
    "gradients cleared": (lambda m, o: m.zero_grad(), {"model.grads": WEIGHTS}, True),
    "draw of torch": (lambda m, o: torch.rand(1), {"rng": ("torch",)}, True),
    "draw of numpy": (lambda m, o: numpy.random.rand(), {"rng": ("numpy",)}, False),
    "draw of Python": (lambda m, o: random.random(), {"rng": ("python",)}, False),
}


def acting(edit: Edit) -> Callable[..., None]:
    def meddle(model: nn.Module, optimizer: Optimizer) -> None:
        edit(model, optimizer)

    return meddle


def violation(learner: Learner) -> UndeclaredChange:
    with pytest.raises(UndeclaredChange) as caught:
        learner.fit(batches=1)
    assert learner.outcome.kind == "failed"
    return caught.value


def assert_names(error: UndeclaredChange, path: str, function: Any, moves: dict[str, tuple[str, ...]]) -> None:
    """The error, and its text, have the actor, its line, the parts, and what is in them by name."""
    assert error.actor == path
    assert {one.name: one.inside for one in error.moves} == moves
    code = function.__code__
    assert error.source.endswith(f"test_guard_finds_every_route.py:{code.co_firstlineno}")
    text = str(error)
    assert text.startswith(f"{path} changed ") and error.source in text
    for name, inside in moves.items():
        assert f"{name!r} ({', '.join(inside[:3])}" in text
        assert (f"and {len(inside) - 3} more" in text) or len(inside) <= 3


def proposed(moves: dict[str, Any]) -> str:
    """The declaration to add."""
    if "rng" in moves:
        return "undeclared. Add 'rng' to its touches. Its code"
    return f"Add {', '.join(map(repr, moves))} to its writes if it is there to change that, to its touches if"


def with_stage(learner: Learner, function: Any, **declared: Any) -> None:
    learner.insert(stage(**declared)(function), after="update")


@pytest.mark.parametrize(("edit", "moves", "_"), ROUTES.values(), ids=ROUTES.keys())
def test_a_stage_is_found_whatever_way_it_takes_and_may_when_it_declares_it(edit: Edit, moves: Any, _: bool) -> None:
    learner, function = make(), acting(edit)
    with_stage(learner, function)
    error = violation(learner)
    assert_names(error, f"{BATCH}/meddle", function, moves)
    assert proposed(moves) in str(error)
    for declaration in ("touches",) if "rng" in moves else ("touches", "writes"):
        learner = make()
        with_stage(learner, acting(edit), **{declaration: tuple(moves)})
        learner.debug()
        learner.fit(batches=1)
        assert learner.outcome.ok


@pytest.mark.parametrize(("edit", "moves", "has_token"), ROUTES.values(), ids=ROUTES.keys())
def test_tokens_find_what_moves_an_identity_a_counter_or_a_plain_value(edit: Edit, moves: Any, has_token: bool) -> None:
    learner, function = make(guard="parts"), acting(edit)
    with_stage(learner, function)
    if has_token:
        error = violation(learner)
        assert error.actor == f"{BATCH}/meddle"
        assert {one.name for one in error.moves} == set(moves)
        assert "contents" not in {one.evidence for one in error.moves}
    else:
        learner.fit(batches=1)
        assert learner.outcome.ok


FEW = {
    name: ROUTES[name] for name in (".data in place", "draw of numpy", "eval mode", "learning rate", "step of its own")
}


@pytest.mark.parametrize("edit", [edit for edit, _, _ in FEW.values()], ids=FEW.keys())
def test_no_guard_does_not_look(edit: Edit) -> None:
    learner = make(guard="off")
    with_stage(learner, acting(edit))
    learner.fit(batches=1)
    assert learner.outcome.ok
    assert not list(learner.log.where(evidence="undeclared"))


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(("edit", "moves", "_"), FEW.values(), ids=FEW.keys())
def test_a_hook_is_found_and_may_when_it_declares_it(edit: Edit, moves: Any, _: bool, side: str) -> None:
    learner, function = make(), acting(edit)
    getattr(learner, side)("update")(function)
    error = violation(learner)
    assert_names(error, f"{BATCH}/update:{side}:meddle", function, moves)
    assert proposed(moves) in str(error)
    learner = make()
    getattr(learner, side)("update", touches=tuple(moves))(acting(edit))
    learner.debug()
    learner.fit(batches=1)
    assert learner.outcome.ok


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(("edit", "moves", "_"), FEW.values(), ids=FEW.keys())
def test_an_observer_is_found_and_told_that_it_is_one(edit: Edit, moves: Any, _: bool, side: str) -> None:
    learner = make()

    def watch(state: Any) -> None:
        edit(state.model, state.optimizer)

    getattr(learner, side)("update")(watch)
    error = violation(learner)
    assert_names(error, f"{BATCH}/update:{side}:watch", watch, moves)
    wanted = f"{'touches' if 'rng' in moves else 'writes'}={tuple(moves)!r}"
    assert f"An observer changes nothing. Declare {wanted} to make it a hook that may." in str(error)


@pytest.mark.parametrize("half", ["first", "second"])
@pytest.mark.parametrize(("edit", "moves", "_"), FEW.values(), ids=FEW.keys())
def test_each_half_of_an_around_hook_is_found(edit: Edit, moves: Any, _: bool, half: str) -> None:
    def pair(declared: Learner, **access: Any) -> Any:
        @declared.around("update", **access)
        def wrap(model: nn.Module, optimizer: Optimizer) -> Generator[None, Any, None]:
            if half == "first":
                edit(model, optimizer)
            yield
            if half == "second":
                edit(model, optimizer)

        return wrap

    learner = make()
    function = pair(learner)
    assert_names(violation(learner), f"{BATCH}/update:around:wrap", function, moves)
    learner = make()
    pair(learner, touches=tuple(moves))
    learner.debug()
    learner.fit(batches=1)
    assert learner.outcome.ok


def test_a_stage_in_an_evaluation_is_found() -> None:
    learner = make(valid=[(torch.randn(4, 2), torch.randn(4, 1))])
    learner.insert(stage()(acting(ROUTES["draw of torch"][0])), after="validate/batch/forward")
    with pytest.raises(UndeclaredChange, match="'rng'") as caught:
        learner.fit(epochs=1)
    assert caught.value.actor == "train/epoch/validate/batch/meddle"


@pytest.mark.slow
def test_compiled_code_is_found() -> None:
    def double(model: nn.Module) -> None:
        weight(model).data.mul_(2)

    learner = make()
    learner.after("update")(torch.compile(double, backend="eager"))
    assert_names(violation(learner), f"{BATCH}/update:after:double", double, ONE)


def test_a_hook_round_the_epochs_is_found() -> None:
    learner = make()
    learner.after("epoch")(acting(ROUTES["storage filled"][0]))
    with pytest.raises(UndeclaredChange, match=r"'model\.params'") as caught:
        learner.fit(epochs=1)
    assert caught.value.actor == "train/epoch:after:meddle"


def test_a_batch_changed_in_place_is_found() -> None:
    learner = make()

    def scale(inputs: torch.Tensor) -> None:
        inputs.data.mul_(2)

    learner.before("forward")(scale)
    error = violation(learner)
    assert error.actor == f"{BATCH}/gradient/forward:before:scale"
    assert {one.name: one.inside for one in error.moves} == {"batch": ("0",), "inputs": ()}
    assert "Add 'batch', 'inputs' to its touches." in str(error)
    learner = make()
    learner.before("forward", touches=("inputs",))(scale)
    learner.fit(batches=2)
    assert learner.outcome.ok
