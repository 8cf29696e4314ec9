"""`python -m wormspace.server CLUSTER_FILE NAME`: one wormserver, for supervisors and containers.

The same as `wormspace server`, without the command's dependencies.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from wormspace.errors import WormError
from wormspace.server import config, logs, runner


def main(arguments: list[str]) -> int:
    """Run the server; returns the exit code."""
    if len(arguments) != 2:
        print("usage: python -m wormspace.server CLUSTER_FILE NAME", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    logs.log_to_stderr("info")
    try:
        cluster = config.load(path)
        server = cluster.find(arguments[1])
        logs.with_last_words(
            runner.last_words(server, path.parent),
            lambda: uvloop.run(runner.serve(cluster, server, path.parent)),
        )
    except (WormError, OSError) as e:
        print(f"wormserver: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
