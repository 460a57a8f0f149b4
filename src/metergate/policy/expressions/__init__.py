"""Expressions: what of a request and its response a meter's ``data`` takes, declared, without code.

`read_data` makes a `Template` of a meter's ``data`` once, when the policy is read, and names all that is wrong with it;
`Template.fill` makes the data of one request from its `Facts`. `Needs` says which facts that takes, so that a host
collects nothing, and holds no body, for which no meter asks.
"""

from metergate.policy.expressions.facts import Facts, Needs
from metergate.policy.expressions.grammar import HASH_LENGTH, MOST_TEXT, Expression, read_expression
from metergate.policy.expressions.template import Filled, Template, read_data

__all__ = [
    "HASH_LENGTH",
    "MOST_TEXT",
    "Expression",
    "Facts",
    "Filled",
    "Needs",
    "Template",
    "read_data",
    "read_expression",
]
