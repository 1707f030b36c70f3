"""TLS and the API key."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from serving.client.client import Client
from serving.wire.errors import Code, ServingError
from tests.serving.support import expect_error
from tests.serving.test_conformance_grpc import check_health

KEY = "a key of the tests"


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself for 127.0.0.1, and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two pairs of certificate and key."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("certificates")
    return make_certificate(folder, "one"), make_certificate(folder, "two")


@pytest.fixture(scope="module")
def secured(laboratory, certificates, tmp_path_factory):
    """A server with TLS and an API key."""
    key_file = tmp_path_factory.mktemp("key") / "key"
    key_file.write_text(KEY + "\n")
    (certificate, key), _ = certificates
    server = laboratory.start(
        tls_certificate_file=certificate, tls_key_file=key, api_key_file=key_file
    )
    yield server
    laboratory.stop(server)


@pytest.fixture(scope="module")
def keyed(laboratory, tmp_path_factory):
    """A server with an API key and no TLS."""
    key_file = tmp_path_factory.mktemp("key") / "key"
    key_file.write_text(KEY)
    server = laboratory.start(
        api_key_file=key_file, monitoring_config_file=laboratory.models / "monitoring.config"
    )
    yield server
    laboratory.stop(server)


def client(server, protocol: str, **options) -> Client:
    """A client of the recommender."""
    port = server.rest if protocol == "rest" else server.grpc
    return Client(f"127.0.0.1:{port}", "recommender", protocol, timeout=5, retries=0, **options)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_tls_and_key(secured, certificates, protocol):
    certificate = str(certificates[0][0])
    with client(secured, protocol, tls_ca_file=certificate, api_key=KEY) as asked:
        assert asked.recommend("u1", k=1).items[0][0] == "i0"
    with client(secured, protocol, tls_ca_file=certificate, api_key="wrong") as asked:
        with pytest.raises(ServingError) as raised:
            asked.recommend("u1")
    assert raised.value.code == Code.UNAUTHENTICATED
    assert raised.value.message == "A valid API key is required"


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_another_certificate(secured, certificates, protocol):
    with client(secured, protocol, tls_ca_file=str(certificates[1][0]), api_key=KEY) as asked:
        with pytest.raises(ServingError) as raised:
            asked.recommend("u1")
    expected = Code.UNAUTHENTICATED if protocol == "rest" else Code.UNAVAILABLE
    assert raised.value.code == expected


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_no_tls(secured, protocol):
    with client(secured, protocol, api_key=KEY) as asked:
        with pytest.raises(ServingError) as raised:
            asked.recommend("u1")
    assert raised.value.code == Code.UNAVAILABLE


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Api-Key": "wrong"},
        {"X-Api-Key": ""},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer wrong"},
        {"X-Api-Key": "\xff"},
        {"X-Api-Key": KEY + "x"},
    ],
    ids=["none", "wrong", "empty", "basic", "bearer", "no-utf8", "longer"],
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/half",
        "/v1/models/half/metadata",
        "/monitoring/prometheus/metrics",
        "/other",
    ],
)
def test_rest_refused(keyed, path, headers):
    expect_error(keyed.get(path, **headers), 401, "A valid API key is required")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Api-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
    ],
    ids=["header", "bearer", "lower-case"],
)
def test_rest_accepted(keyed, headers):
    assert keyed.get("/v1/models/half", **headers).status == 200


def test_a_browser_asks_for_leave_without_the_key(start, tmp_path):
    (tmp_path / "key").write_text(KEY)
    server = start(api_key_file=tmp_path / "key", rest_api_enable_cors_support=True)
    headers = {"Origin": "https://h", "Access-Control-Request-Headers": "x-api-key"}
    reply = server.send("OPTIONS", "/v1/models/half:predict", headers=headers)
    assert reply.status == 200
    assert "X-Api-Key" in reply.headers["access-control-allow-headers"]
    assert server.get("/v1/models/half").status == 401


def test_grpc_key(keyed):
    call = keyed.channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
    request = b"\x0a\x06\x0a\x04half"
    assert call(request, metadata=(("x-api-key", KEY),), timeout=5)
    assert call(request, metadata=(("authorization", f"Bearer {KEY}"),), timeout=5)
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=5)
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    # A probe holds no key.
    assert check_health(keyed, "") == b"\x08\x01"


@pytest.mark.parametrize(
    "ports", [{}, {"rest_api_port": -1}, {"port": -1}], ids=["both", "grpc", "rest"]
)
def test_key_of_another_certificate(laboratory, certificates, ports):
    (certificate, _), (_, key) = certificates
    with pytest.raises(RuntimeError, match="cannot use .*one.crt"):
        laboratory.start(tls_certificate_file=certificate, tls_key_file=key, **ports)


def test_files_that_are_missing(laboratory, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(RuntimeError, match=f"cannot read {missing}"):
        laboratory.start(api_key_file=missing)
    missing.write_text(" \n")
    with pytest.raises(RuntimeError, match="holds no key"):
        laboratory.start(api_key_file=missing)
