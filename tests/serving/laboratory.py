"""The process behind `support.Laboratory`.

It writes the fixture models, then starts and stops servers as lines of JSON on its standard input
say.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from serving.server import Server
from serving.wire.errors import StartError
from tests.serving.fixture_models import write_all


def main(folder: Path) -> None:
    """Answers every line with a line."""
    logging.basicConfig(level=logging.INFO)
    sys.setswitchinterval(0.001)
    write_all(folder)
    servers: dict[int, Server] = {}
    _say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "start" in request:
                server = Server(**request["start"]).start()
                servers[len(servers)] = server
                _say(
                    {"number": len(servers) - 1, "rest": server.rest_port, "grpc": server.grpc_port}
                )
            else:
                servers[request["stop"]].stop()
                _say({"stopped": request["stop"]})
        except StartError as error:
            _say({"error": str(error)})


def _say(answer: dict) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
