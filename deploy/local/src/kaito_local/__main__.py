"""The command line: `kaito-local COMMAND`."""

import argparse
import asyncio
import importlib
import importlib.util
import sys

from kaito_local.errors import LocalError
from kaito_local.progress import say

_COMMAND_MODULES = (
    "controlplane_command",
    "cluster_command",
    "claims_command",
    "arm_command",
    "images_command",
    "compose_command",
    "run",
)
"""Each has register(subparsers), which sets `command` to a coroutine function from arguments to the exit status."""


def main() -> None:
    """Parses the arguments, runs the command and exits with its status; a LocalError is one message, no traceback."""
    parser = argparse.ArgumentParser(prog="kaito-local", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in _COMMAND_MODULES:
        if importlib.util.find_spec(f"kaito_local.{name}"):
            importlib.import_module(f"kaito_local.{name}").register(subparsers)
    args = parser.parse_args()
    try:
        sys.exit(asyncio.run(args.command(args)))
    except LocalError as error:
        say(f"kaito-local: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
