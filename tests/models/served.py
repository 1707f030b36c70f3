"""The embedded server on a model that a test has exported, asked over both protocols."""

import contextlib
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from serving.client.client import Client
from serving.client.usage import usages
from serving.server import Server

PROTOCOLS = ("rest", "grpc")


class Served:
    """A server of one model.

    Attributes:
        name: the model's.
        addresses: protocol -> host:port.
    """

    def __init__(self, name: str, addresses: dict[str, str]):
        self.name, self.addresses = name, addresses

    def client(self, protocol: str) -> Client:
        return Client(self.addresses[protocol], self.name, protocol, timeout=60)

    def run_examples(self, *signatures: str) -> None:
        """Runs what `python -m serving.client.usage` prints of some signatures.

        The Python is run over gRPC as well, with the time that a busy machine needs.
        """
        rest = self.addresses["rest"]
        with self.client("rest") as client:
            examples = {one.signature: one for one in usages(client.metadata(), rest, self.name)}
        made = f"Client({rest!r}, {self.name!r})"
        for signature in signatures:
            example = examples[signature]
            ran = subprocess.run(["bash", "-c", example.curl], capture_output=True, timeout=60)
            answer = json.loads(ran.stdout)
            assert set(answer) == {"outputs"}, (example.curl, answer)
            assert made in example.python
            for protocol in PROTOCOLS:
                address = self.addresses[protocol]
                there = f"Client({address!r}, {self.name!r}, {protocol!r}, timeout=60)"
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(example.python.replace(made, there), {})  # noqa: S102
                assert printed.getvalue().startswith(("{", "Recommendations(")), example.python


@contextlib.contextmanager
def served(folder: str | Path, name: str, **options) -> Iterator[Served]:
    """Serves the exported version `folder` as the model `name`, with options of `ServerOptions`."""
    base_path = str(Path(folder).parent)
    server = Server(model_name=name, model_base_path=base_path, port=0, rest_api_port=0, **options)
    server.start()
    try:
        ports = {"rest": server.rest_port, "grpc": server.grpc_port}
        yield Served(name, {protocol: f"127.0.0.1:{port}" for protocol, port in ports.items()})
    finally:
        server.stop()
