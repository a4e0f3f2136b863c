# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""``monai-cluster VERB``: the public functions of ``monai_cluster.apps``, with their own arguments as options.

Options are read off the functions' signatures and docstrings, so that the command and Python never drift apart.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from monai_cluster.apps.config_errors import own_error
from monai_cluster.apps.suggestions import did_you_mean
from monai_cluster.version import __version__

__all__ = ["main"]

VERBS = {
    "check": "is this folder fit to learn from: every file inspected, and a datalist of those to be trusted",
    "demo": "phantoms made on the spot: pretrain, embed, probe, draw; no data needed",
    "pretrain": "pretrain an encoder and an aggregator on images and volumes without labels",
    "embed": "embed the images, slices and volumes of a datalist with a pretrained encoder",
    "finetune": "train segmentation, detection or classification from pretrained weights",
    "predict": "predict with a fine-tuned model, in the files' own geometry",
    "evaluate": "score a fine-tuned model on labels, or probe a pretrained encoder",
    "export": "a pretrained encoder or a fine-tuned model as TorchScript, ONNX, safetensors, bundle or torchvision",
    "fewlabel": "is the pretraining worth it: initialisations x labelled patients x seeds, in one table",
}


class _Parser(argparse.ArgumentParser):
    """An argument parser that names the option which was probably meant."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--?[\w-]+)", message)
        if unknown:  # said by the outermost parser about what its commands left over
            known = set(self._option_string_actions)
            for action in self._actions:
                if isinstance(action, argparse._SubParsersAction):
                    known |= {name for command in action.choices.values() for name in command._option_string_actions}
            message += did_you_mean(unknown.group(1).split("=")[0], known)
        super().error(message)


class _GivenOnce(argparse.Action):
    """An argument that may be given by its option's name or by its place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest, None) is not None:
            raise argparse.ArgumentError(self, "is given twice")
        setattr(namespace, self.dest, values)
        for action in parser._actions:
            if action.dest == self.dest:
                action.required = False


def _pair(text: str) -> tuple[str, Any]:
    """``key=value`` with the value as JSON where it is JSON, else as text."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """The ``Args:`` of a Google-style docstring."""
    section = re.search(r"Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(function) or "", re.S)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section.group(1) if section else "", re.S | re.M)
    return {name: re.sub(r"\s+", " ", text).strip().replace("%", "%%").replace("``", "") for name, text in entries}


def _add_option(parser: argparse.ArgumentParser, name: str, hint: Any, default: Any, text: str) -> None:
    """One option for one parameter, by its type."""
    flag = name if name == "task" else f"--{name.replace('_', '-')}"
    required = default is inspect.Parameter.empty
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] if _is_union(hint) else [hint]
    origins = [typing.get_origin(kind) or kind for kind in kinds]
    if any(isinstance(origin, type) and issubclass(origin, Mapping) for origin in origins):
        parser.add_argument("--set", dest=name, metavar="KEY=VALUE", type=_pair, action="append", help=text)
        return
    shown = "" if required or default is None else f" (default: {default})"
    common: dict[str, Any] = {
        "dest": name,
        "help": text + shown,
        "required": required,
        "default": None if required else default,
    }
    if bool in kinds:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    elif name == "task":
        parser.add_argument(name, choices=typing.get_args(hint), help=text)
    elif typing.Literal in origins:
        choices = [choice for kind in kinds for choice in typing.get_args(kind)]
        parser.add_argument(flag, choices=choices, **common)
    elif any(isinstance(origin, type) and issubclass(origin, Sequence) and origin is not str for origin in origins):
        item = next((kind for seq in kinds for kind in typing.get_args(seq) if kind is not Ellipsis), str)
        parser.add_argument(flag, nargs="+", type=item if item in (int, float) else str, **common)
    else:
        if name == "source":
            help_text = f"the same as {flag}"
            parser.add_argument(
                name, nargs="?", action=_GivenOnce, default=argparse.SUPPRESS, metavar="FOLDER", help=help_text
            )
            common["action"] = _GivenOnce
        parser.add_argument(flag, type=next((kind for kind in (int, float) if kind in kinds), str), **common)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _verb(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module("monai_cluster.apps"), name)
    return function


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen verb's module is imported, since MONAI takes seconds to import."""
    parser = _Parser(prog="monai-cluster", description=__doc__.split("\n")[0].replace("``", ""), allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"monai-cluster {__version__}")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for name, summary in VERBS.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name != verb:
            continue
        function = _verb(name)
        hints, texts = typing.get_type_hints(function), _descriptions(function)
        for parameter in inspect.signature(function).parameters.values():
            _add_option(
                command, parameter.name, hints[parameter.name], parameter.default, texts.get(parameter.name, "")
            )
        command.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 when it succeeded, 1 when it failed (the reason is printed), 2 for wrong usage, 3 when ``check`` rejected
        something, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in words if word in VERBS), None)
    parser = build_parser(verb)
    options = vars(parser.parse_args(words))
    function, debug = _verb(options.pop("verb")), options.pop("debug")
    for name, value in options.items():
        if isinstance(value, list) and value and isinstance(value[0], tuple):
            options[name] = dict(value)
    try:
        result = function(**options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"monai-cluster {verb}: {_reason(error)}", file=sys.stderr)
        return 1
    if hasattr(result, "summary"):
        print(result.summary)
    return int(getattr(result, "exit_code", 0))


def _reason(error: BaseException) -> str:
    """What went wrong, without MONAI's words about where in the configuration."""
    error = own_error(error)
    return (
        f"{type(error).__name__}: {error}" if str(error) else f"{type(error).__name__} (use --debug for the traceback)"
    )


if __name__ == "__main__":
    sys.exit(main())
