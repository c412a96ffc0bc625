"""Whatever a lab is and becomes: once it is done, there is nothing left to do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from nestctl.lab.bring_up import Wishes
from nestctl.lab.compare import Action, compare, is_settled
from nestctl.model.lab import Lab, walk_guests
from tests.builders import plans_of, seen
from tests.fakes import own_domains
from tests.lab_bench import Bench
from tests.property.labs import labs

pytestmark = pytest.mark.slow

EVERYTHING = Wishes(may_recreate=True, may_prune=True)


@settings(max_examples=25)
@given(first=labs(max_cpus=2), second=labs(max_cpus=2))
def test_the_plan_of_the_result_of_a_plan_is_empty(first: Lab, second: Lab) -> None:
    bench = Bench()
    # A network that guests run on is refused another form.
    networks = {label: first.networks.get(label, network) for label, network in second.networks.items()}
    second = second.model_copy(update={"name": first.name, "networks": networks})
    for wanted in (first, second, first):
        before = bench.plan(wanted)
        bench.up(wanted, wishes=EVERYTHING)
        assert is_settled(bench.plan(wanted)), before
        assert own_domains(bench.machine) == {f"{first.name}-{name}": True for name, _ in walk_guests(wanted.guests)}
    bench.down(first)
    bench.expect_nothing_left()


@given(lab=labs())
def test_what_is_as_it_was_planned_has_nothing_to_do(lab: Lab) -> None:
    assert is_settled(compare(plans_of(lab), seen(plans_of(lab))))


@settings(max_examples=25)
@given(lab=labs(max_cpus=2))
def test_a_plan_touches_nothing_and_what_is_new_is_only_created(lab: Lab) -> None:
    bench = Bench()
    assert set(bench.actions(lab).values()) == {Action.CREATE}
    assert bench.world.steps == 0
    bench.expect_nothing_left()
