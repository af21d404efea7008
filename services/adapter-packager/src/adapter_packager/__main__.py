"""`adapter-packager` and `python -m adapter_packager`."""

import sys

from adapter_packager.cli import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
