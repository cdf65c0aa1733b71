"""Insides of parts and fields: the names and the values that a look compares."""

import enum
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, StepLR

from state.insides import Inside, Tree, frozen, hyper, in_field, is_fixed, optimizer_state, stateful
from state.parts import optimized


def as_dict(inside: Inside | None) -> dict[str, Any]:
    assert inside is not None
    assert len(set(inside.names)) == len(inside.names)
    return dict(zip(*inside, strict=True))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3, bias=False)
        self.decoder = nn.Linear(3, 3, bias=False)
        self.decoder.weight = self.encoder.weight
        self.again = self.decoder
        self.register_parameter("absent", None)


def test_a_tree_names_what_a_module_holds() -> None:
    tree = Tree(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)))
    assert tree.params.names == ["0.weight", "0.bias"]
    assert tree.buffers.names == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert as_dict(tree.mode()) == {
        **{"training": True, "0.training": True, "1.training": True},
        **{"0.weight.requires_grad": True, "0.bias.requires_grad": True},
    }
    assert tree.grads() == Inside(["0.weight", "0.bias"], [None, None])


def test_a_tied_parameter_has_each_of_its_names() -> None:
    model = Tied()
    tree = Tree(model)
    assert tree.params.names == ["encoder.weight", "decoder.weight"]
    assert all(value is model.encoder.weight for value in tree.params.values)


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: model.append(nn.Linear(1, 1)),
        lambda model: model.__setitem__(0, nn.Linear(2, 2)),
        lambda model: setattr(model[0], "weight", nn.Parameter(torch.ones(2, 2))),
        lambda model: model[0].register_parameter("extra", nn.Parameter(torch.ones(1))),
        lambda model: setattr(model[0], "bias", None),
        lambda model: setattr(model[1], "running_mean", torch.ones(2)),
        lambda model: model[0].register_buffer("mask", torch.ones(2)),
        lambda model: setattr(model[0], "_parameters", dict.fromkeys(["weight", "bias"])),
    ],
)
def test_a_tree_is_not_current_once_the_module_holds_something_else(edit: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    tree = Tree(model)
    assert tree.is_current()
    edit(model)
    assert not tree.is_current()


def test_the_gradient_of_what_is_no_leaf_is_not_asked_for() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight
    del model._parameters["weight"]
    model._parameters["weight"] = weight * 2  # type: ignore[assignment]  # as torch.func.functional_call does
    assert Tree(model).grads().values == [None, None]


def test_hyper_parameters_stand_under_their_names() -> None:
    model = nn.Linear(1, 1)
    one = as_dict(hyper(SGD(model.parameters(), lr=0.1)))
    assert (one["lr"], one["nesterov"]) == (0.1, False)
    assert one["params"] == (id(model.weight), id(model.bias))
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5, "own": 1}]
    two = as_dict(hyper(SGD(groups, lr=0.1)))
    assert (two["lr"], two["own"]) == ((0.1, 0.5), (None, 1))
    assert two["params"] == ((id(model.weight),), (id(model.bias),))


def test_a_learning_rate_on_a_device_is_not_read() -> None:
    optimizer = Adam([nn.Parameter(torch.ones(1))], lr=torch.tensor(0.5), capturable=True)
    on_cpu = as_dict(hyper(optimizer))["lr"]
    optimizer.param_groups[0]["lr"].fill_(0.5)
    assert as_dict(hyper(optimizer))["lr"] == on_cpu
    optimizer.param_groups[0]["lr"].fill_(0.25)
    assert as_dict(hyper(optimizer))["lr"] != on_cpu
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5, device="meta")
    elsewhere = as_dict(hyper(optimizer))["lr"]
    assert as_dict(hyper(optimizer))["lr"] == elsewhere != on_cpu
    optimizer.param_groups[0]["lr"].fill_(0.25)
    assert as_dict(hyper(optimizer))["lr"] != elsewhere


def test_lists_and_tensors_are_not_fixed() -> None:
    optimizer = Adam([nn.Parameter(torch.ones(1))])
    assert is_fixed(optimizer)
    for value in ([0.9, 0.99], torch.tensor(0.5), ([0.9], 0.99), len):
        optimizer.param_groups[0]["betas"] = value
        assert not is_fixed(optimizer)


def test_optimizer_state_stands_under_the_parameters_numbers() -> None:
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([{"params": [one]}, {"params": [two]}], lr=0.1, momentum=0.9)
    assert optimized(optimizer) == [one, two]
    assert optimizer_state(optimizer) == Inside([], [])
    two.sum().backward()
    optimizer.step()
    assert optimizer_state(optimizer).names == ["1.momentum_buffer"]
    optimizer.state["shared"] = {"history": [torch.ones(1), 3], "count": 2}  # type: ignore[index]
    optimizer.state[torch.ones(1)] = {"lost": 1}
    found = as_dict(optimizer_state(optimizer))
    assert list(found)[1:] == ["shared.history.0", "shared.history.1", "shared.count", "other2.lost"]
    assert found["shared.count"] == 2


def test_state_is_what_state_dict_gives() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    found = as_dict(stateful(StepLR(optimizer, 3)))
    assert (found["step_size"], found["last_epoch"], found["_last_lr"]) == (3, 0, (0.1,))
    assert as_dict(stateful(LambdaLR(optimizer, lambda epoch: 0.5)))["last_epoch"] == 0


def test_what_cannot_give_its_state_is_not_looked_at() -> None:
    class Shy:
        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("not now")

    assert stateful(Shy()) is None


def test_the_sums_of_a_metric_are_its_state() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.MeanMetric()
    assert metric.state_dict() == {}
    before = {name: float(value) for name, value in as_dict(stateful(metric)).items()}
    metric.update(torch.tensor(4.0))
    after = {name: float(value) for name, value in as_dict(stateful(metric)).items()}
    assert (before, after) == ({"mean_value": 0, "weight": 0}, {"mean_value": 4, "weight": 1})


def test_the_scale_is_looked_at_once_there_is_one() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    assert stateful(scaler) is None
    scaler.scale(torch.ones(1))
    assert float(as_dict(stateful(scaler))["_scale"]) == 4


def test_tensors_in_fields_are_found_at_any_depth() -> None:
    one, two = torch.ones(1), torch.ones(2)
    assert as_dict(in_field(one)) == {"": one, "requires_grad": False}
    assert in_field((one, [two, 3])) == Inside(["0", "1.0", "1.1"], [one, two, 3])
    assert in_field({"x": one, "of": {"y": two, "names": ["a", "b"]}}) == Inside(
        ["x", "of.y", "of.names"], [one, two, ("a", "b")]
    )


def test_collections_without_tensors_are_left_out() -> None:
    itself: list[Any] = [torch.ones(1)]
    itself.append(itself)
    for value in ([1, 2], {"a": "b"}, [[1], [2]], ["a", object()], itself, [torch.ones(1)] * 1_001):
        assert in_field(value) is None
    assert in_field({}) == Inside([], [])  # there may be tensors soon


class Colour(enum.Enum):
    RED = 1


class Plain: ...


def test_frozen_values_do_not_follow_the_original() -> None:
    numpy = pytest.importorskip("numpy")
    values: list[Any] = [[1, [2]], {"a": [1]}, {1}, numpy.ones(2), torch.ones(2)]
    changes = [
        lambda x: x[1].append(3),
        lambda x: x["a"].append(2),
        lambda x: x.add(2),
        lambda x: x.fill(2),
        lambda x: x.fill_(2),
    ]
    for value, change in zip(values, changes, strict=True):
        before = frozen(value)
        assert frozen(value) == before
        change(value)
        assert frozen(value) != before


@pytest.mark.parametrize("value", [1, 0.5, "a", None, b"a", Colour.RED, torch.float32, (1, "a"), 2 + 1j])
def test_what_cannot_change_is_kept_as_it_is(value: Any) -> None:
    assert frozen(value) is value


def test_of_objects_without_an_equality_the_type_counts() -> None:
    assert frozen(Plain()) == frozen(Plain()) == "a Plain"
    assert frozen([Plain()]) == ("a Plain",)


def test_a_tensor_subclass_can_stand_in_a_field() -> None:
    class Named(Tensor): ...

    value = torch.ones(2).as_subclass(Named)
    found = in_field(value)
    assert found is not None
    assert found.values[0] is value


def test_the_sums_of_all_metrics_of_a_collection_are_its_state() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    metrics = torchmetrics.MetricCollection({"mean": torchmetrics.MeanMetric(), "sum": torchmetrics.SumMetric()})
    before = {name: float(value) for name, value in as_dict(stateful(metrics)).items()}
    metrics.update(torch.tensor(4.0))
    after = {name: float(value) for name, value in as_dict(stateful(metrics)).items()}
    assert {name.partition(".")[0] for name in after if after[name] != before[name]} == {"mean", "sum"}
