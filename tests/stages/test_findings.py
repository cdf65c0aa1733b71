"""Findings: for each kind the smallest tree that has the fault, and one that nearly has it and assembles."""

from typing import get_args

import pytest

from stages.finding import Kind
from tests.stages.faults.rules import RULES
from tests.stages.faults.trees import Case
from tests.stages.faults.walk import WALK

CASES = {**WALK, **RULES}


def test_every_kind_of_finding_stands_in_the_table() -> None:
    assert {case.kind for case in CASES.values()} == set(get_args(Kind))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fault_is_found_with_who_and_the_way_out(case: Case) -> None:
    (finding,) = [one for one in case.faulty() if one.severity == case.severity]
    assert finding.kind == case.kind
    assert set(case.who) <= set(finding.actors), finding.actors
    assert case.told in finding.message and case.ways in finding.message and finding.message.isascii()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_near_miss_assembles_without_it(case: Case) -> None:
    near = case.near()
    assert case.kind not in {one.kind for one in near} and "error" not in {one.severity for one in near}, near
