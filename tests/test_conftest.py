"""The guard itself: other machines are out of reach, this one is not."""

import os
import socket
from pathlib import Path

import pytest

ELSEWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): nobody's address


def test_another_machine_is_out_of_reach() -> None:
    with socket.socket() as client, pytest.raises(RuntimeError, match="stay on this machine"):
        client.connect((ELSEWHERE, 80))


def test_names_are_not_looked_up() -> None:
    with pytest.raises(RuntimeError, match="stay on this machine"):
        socket.getaddrinfo("example.invalid", 80)


def test_a_datagram_goes_nowhere() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as client, pytest.raises(RuntimeError, match="stay on this machine"):
        client.sendto(b"hello", (ELSEWHERE, 9))


def test_this_machine_is_in_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_every_test_has_its_own_empty_folder(own_folder: Path) -> None:
    assert Path.cwd() == own_folder
    assert not list(own_folder.iterdir())


def test_models_are_never_fetched() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
