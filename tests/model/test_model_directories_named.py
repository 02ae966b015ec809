"""Names of models that are not there."""

import socket

import pytest

import circuits
from circuits import InputError, model_files


@pytest.mark.parametrize("name", ["./nodir", "../nodir", "/no/dir", "runs/model/", "one/two/three", "~/model"])
def test_a_directory_that_does_not_exist_is_said_so(name):
    with pytest.raises(InputError, match="no such directory"):
        circuits.load_model(name)


def test_without_an_address_of_the_hub_only_the_cache_is_looked_at(monkeypatch):
    monkeypatch.setattr(model_files, "getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def resolve(*address):
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not model_files.hub_is_known()
    with pytest.raises(InputError, match="cannot load 'nobody/nothing'"):
        circuits.load_model("nobody/nothing")


def test_a_proxy_resolves_the_address_of_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(model_files, "getproxies", lambda: {"https": "proxy"})
    assert model_files.hub_is_known()
