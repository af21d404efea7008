"""Every service's flags, from the parsers themselves."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import adapter_packager.arguments
import gpu_provisioner.settings
import model_server.options
import tuner.options
from reference.table import code, table
from workspace_controller.process_settings import process_arguments
from workspace_controller.settings import planning_arguments

_VARIABLE = re.compile(r"(?:\[|; \$)([A-Z][A-Z0-9_]+)")
_STATED_ELSEWHERE = re.compile(r"\s*(?:\(default: [^()]*\)|\[[A-Z_]+[^\]]*\])$")
"""Default and variable at the end of a help text: they have columns of their own."""
_SECRETS = (
    "`AZURE_CLIENT_SECRET` (environment only) is the client secret, for `--credential client-secret`. The cluster is found "
    "through `KUBECONFIG`, else through the pod's service account.\n"
)
_CLUSTER = "The cluster is found through `KUBECONFIG`, else through the pod's service account.\n"


class _Asked(dict[str, str]):
    """An empty environment that remembers what was looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return default


def page() -> str:
    """Return the page."""
    parts = [
        "# Settings of the services\n",
        "A flag wins over its environment variable. `SERVICE --help` prints the same.\n",
        "## workspace-controller\n",
        _table(_controller(), set()),
        "## gpu-provisioner\n",
        _SECRETS,
        _table(gpu_provisioner.settings.build_parser({}), set()),
        "## model-server\n",
        "The controller writes these command lines; by hand they help when you debug. What follows `--` goes to vLLM.\n",
        _CLUSTER,
        _commands(model_server.options.build_parser),
        "## tuner\n",
        "The init container of a tuning Workspace's Job; by hand it trains from files and URLs.\n",
        _commands(tuner.options.build_parser),
        "## adapter-packager\n",
        _commands(adapter_packager.arguments.parser),
    ]
    return "\n".join(parts)


def _controller() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    process_arguments(parser, {})
    planning_arguments(parser, {})
    return parser


def _commands(build: Callable[[Mapping[str, str]], argparse.ArgumentParser]) -> str:
    asked = _Asked()
    parser = build(asked)
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return "\n".join(
        f"### {parser.prog} {name}\n\n{helps[name][:1].upper()}{helps[name][1:]}.\n\n{_table(child, asked.names)}"
        for name, child in subparsers.choices.items()
    )


def _table(parser: argparse.ArgumentParser, asked: set[str]) -> str:
    return table(("Flag", "Variable", "Default", "Meaning"), _rows(parser, asked))


def _rows(parser: argparse.ArgumentParser, asked: set[str]) -> Iterator[tuple[str, str, str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        text = action.help or ""
        name = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest).upper()
        choices = f"; one of {', '.join(str(choice) for choice in action.choices)}" if action.choices else ""
        yield (
            code(name),
            code(_variable(action, text, asked)),
            _default(action),
            _STATED_ELSEWHERE.sub("", text) + choices,
        )


def _variable(action: argparse.Action, text: str, asked: set[str]) -> str:
    found = _VARIABLE.search(text)
    if found is not None:
        return found[1]
    ending = f"_{action.dest.upper()}"
    fitting = [name for name in asked if name.endswith(ending) and action.option_strings]
    return min(fitting, key=len, default="")


def _default(action: argparse.Action) -> str:
    if action.required or not action.option_strings:
        return "required"
    value = action.default
    return code(str(value).lower() if isinstance(value, bool) else value) if value not in (None, "", []) else ""
