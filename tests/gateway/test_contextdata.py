"""`metergate.gateway.contextdata`: a value set in one request is there, under its name, and in no other request."""

from __future__ import annotations

from metergate.gateway.context import Context
from metergate.gateway.contextdata import ContextData


def test_what_is_set_in_a_request_is_read_in_it_under_the_same_name():
    context, plan = Context("1"), ContextData[str]("plan")
    assert plan.get(context) is None
    assert plan.get(context, "free") == "free"
    plan.set(context, "pro")
    assert plan.get(context) == "pro"
    assert ContextData[str]("plan").get(context) == "pro"
    assert ContextData[str]("other").get(context) is None


def test_another_request_has_values_of_its_own():
    one, other, plan = Context("1"), Context("2"), ContextData[str]("plan")
    plan.set(one, "pro")
    assert plan.get(other) is None


def test_the_projects_own_custom_values_are_left_alone():
    context = Context("1")
    context.custom["plan"] = "mine"
    ContextData[str]("plan").set(context, "ours")
    assert context.custom["plan"] == "mine"
