"""The parts of the demo that need no server."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from metergate.cli.application import application
from metergate.cli.demo import check_ports, quickstart
from metergate.errors import UsageError
from metergate.testing.processes import HOST, free_port

ROOT = Path(__file__).parents[2]
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
    with pytest.raises(UsageError, match=f"the port of {option} {taken}: .*, or name another, {option} N "):
        check_ports(ports)


def test_all_taken_ports_are_named_at_once(taken):
    ports = dict(zip(OPTIONS, (taken, free_port(), taken), strict=True))
    with pytest.raises(UsageError, match=f"--port {taken} and --upstream-port {taken}:"):
        check_ports(ports)


def test_ports_have_to_differ():
    port = free_port()
    with pytest.raises(UsageError, match="--port, --openmeter-port, --upstream-port have to differ"):
        check_ports(dict(zip(OPTIONS, (port, port, free_port()), strict=True)))


def test_make_run_hands_its_arguments_to_the_demo():
    options = "--port 9100 --openmeter-port 8899 --upstream-port 9101 --workers 1"
    command = ["make", "--dry-run", "--old-file=.venv/.installed", "run", f"ARGS={options}"]
    # Not as a part of the make that runs the tests: it would say which folder it enters and leaves.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        command, cwd=ROOT, env=outside, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1].endswith(f"metergate demo {options}")
    known: Any = get_command(application)
    taken = {each for parameter in known.commands["demo"].params for each in parameter.opts}
    assert set(options.split()[::2]) <= taken


def test_the_project_of_the_demo_is_found():
    assert (quickstart() / "config" / "policies.json").is_file()
