"""Entry point: `tuner run`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from kubecore.logging import setup_logging
from tuner import options
from tuner.exits import ExitCode, FatalError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    try:
        settings = options.parse(list(sys.argv[1:] if argv is None else argv))
    except FatalError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.code)
    except SystemExit as ended:  # --help
        return int(ended.code or ExitCode.OK)
    from tuner.supervisor import supervise

    setup_logging()
    return asyncio.run(supervise(settings))


if __name__ == "__main__":
    sys.exit(main())
