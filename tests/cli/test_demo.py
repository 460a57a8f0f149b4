"""The parts of the demo that need no server."""

from __future__ import annotations

import socket

import pytest

from metergate.cli.demo import check_ports, quickstart
from metergate.errors import UsageError
from metergate.testing.processes import HOST, free_port

OPTIONS = ("--port", "--openmeter-port", "--upstream-port")


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind((HOST, free_port()))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_taken_port_is_named_with_its_option(option, taken):
    ports = {each: taken if each == option else free_port() for each in OPTIONS}
    with pytest.raises(UsageError, match=f"the port of {option} {taken}: .*, or name another, {option} N$"):
        check_ports(ports)


def test_all_taken_ports_are_named_at_once(taken):
    ports = dict(zip(OPTIONS, (taken, free_port(), taken), strict=True))
    with pytest.raises(UsageError, match=f"--port {taken} and --upstream-port {taken}:"):
        check_ports(ports)


def test_ports_have_to_differ():
    port = free_port()
    with pytest.raises(UsageError, match="--port, --openmeter-port, --upstream-port have to differ"):
        check_ports(dict(zip(OPTIONS, (port, port, free_port()), strict=True)))


def test_the_project_of_the_demo_is_found():
    assert (quickstart() / "config" / "policies.json").is_file()
