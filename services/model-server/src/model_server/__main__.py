"""Entry point: `model-server serve` and `model-server fetch`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from kubecore.termination import termination_log
from model_server import options
from model_server.exits import ExitCode, FatalError
from model_server.options import FetchOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parsed = options.parse(arguments)
    except FatalError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.code)
    except SystemExit as ended:  # --help
        return int(ended.code or ExitCode.OK)
    log = termination_log(options.ENVIRONMENT_PREFIX + "TERMINATION_LOG")
    if isinstance(parsed, FetchOptions):
        from model_server.fetch import run as fetch_command

        return fetch_command.run(parsed, log)
    from model_server import pid1

    if pid1.wanted(parsed.init, os.getpid()):
        return pid1.run(pid1.server_command(arguments), log)
    from model_server import serve

    return serve.run(parsed, log)


if __name__ == "__main__":
    sys.exit(main())
