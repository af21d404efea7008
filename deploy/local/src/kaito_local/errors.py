"""The errors that this tool shows to its user as one message, without a traceback."""


class LocalError(Exception):
    """Something a person has to know or do; the message says what."""


class CommandError(LocalError):
    """A program that was run to its end has failed."""

    def __init__(self, argv: tuple[str, ...], status: int, output: str) -> None:
        """Keeps the exit status and what the program wrote to stderr."""
        shown = " ".join(argv[:6]) + (" ..." if len(argv) > 6 else "")
        super().__init__(f"{shown} ended with status {status}: {output.strip()[-2000:]}")
        self.status = status
        self.output = output
