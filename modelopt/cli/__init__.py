"""The command line: click commands turn flags into a recipe and give it to the engine; the console prints.

Nothing below this room imports click or rich. Commands are imported when they are called.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from modelopt import __version__
from modelopt.cli import signals, streams
from modelopt.cli.command_help import Documented
from modelopt.cli.endings import as_ours, ending, unreadable
from modelopt.core import bus_errors, temporary
from modelopt.core.errors import InputError, did_you_mean
from modelopt.core.systems import require_memory, require_supported
from modelopt.core.thread_room import spare_threads

COMMANDS: dict[str, str] = {
    "inspect": "Show what a model is made of.",
    "fold": "Fold constants and remove what does nothing.",
    "fuse": "Merge operators into fewer, faster ones.",
    "prune": "Set the smallest weights to zero.",
    "quantize": "Convert to int8 with calibration data.",
    "bench": "Measure latency, models side by side.",
    "compare": "Compare two models: size, latency, accuracy.",
    "diff": "Show what two model files differ in.",
    "reduce": "Find the smallest part of a model on which a command fails.",
    "evaluate": "Score a model on labelled data.",
    "check": "Compare a stored report with an earlier one.",
    "run": "Run a recipe.",
    "recipes": "List the recipes that come with modelopt, or print one.",
    "passes": "List the passes, or explain one.",
    "log": "Show how a model was made.",
    "makefile": "Print make rules to include in a Makefile.",
    "completion": "Print a shell completion script.",
}


class LazyGroup(Documented, click.Group):
    """A group that imports a command's module when the command is called, not for ``--help``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read nothing, ``help`` and ``help COMMAND`` as ``--help`` and ``COMMAND --help``."""
        if not args or args[0] == "help":
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the README's table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"modelopt.cli.{cmd_name}_cmd")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a command for a mistyped one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(
                f"unknown command '{name}'\nhint: {did_you_mean(name, COMMANDS) or 'modelopt --help'}"
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; click itself would end with 1 where the system reports a broken pipe."""
        require_memory()
        spare_threads()
        _quieten_libraries()
        try:
            return super().invoke(ctx)
        except OSError as error:
            ours = as_ours(error)
            raise ours if ours is not None else error from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  modelopt inspect model.onnx
  modelopt quantize --calib data/ --eval labelled.npz model.onnx
  modelopt fold model.onnx -o - | modelopt fuse - -o fast.onnx

Exit codes: 0 done, 1 a gate failed, 2 bad usage or input, 3 refused, 4 the environment lacks something,
70 a bug of ours, 129 hung up, 130 interrupted, 141 nobody reads the output, 143 terminated.""",
)
@click.version_option(__version__, "-V", "--version", message="modelopt %(version)s")
def cli() -> None:
    """Optimize ONNX models and prove it: what comes out is verified and measured beside the original."""


def main() -> None:
    """Run the command line and turn every ending into its exit code."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        code = _run()
    except KeyboardInterrupt as error:  # it came between the command's end and the word on it
        code = ending(error)
    sys.exit(code)


def _run() -> int:
    try:
        require_supported()
        signals.handle()
        streams.prepare()
        bus_errors.handle(unreadable)
        _require_words_to_complete()
        code = cli.main(prog_name="modelopt", standalone_mode=False)
        streams.flush()
    except BaseException as error:  # noqa: BLE001 - the last line of defence: whatever it is has an exit code
        code = ending(error)
    signals.hold()
    temporary.remove_all()
    return int(code or 0)


def _require_words_to_complete() -> None:
    """Refuse to complete what the shell does not say: click would end in a traceback."""
    asked = os.environ.get("_MODELOPT_COMPLETE", "")
    lacking = [name for name in ("COMP_WORDS", "COMP_CWORD") if name not in os.environ]
    if asked.endswith("_complete") and lacking:
        fact = f"_MODELOPT_COMPLETE={asked} without {' and '.join(lacking)}"
        raise InputError(
            fact, note="only the scripts of `modelopt completion` set these", hint="unset _MODELOPT_COMPLETE"
        )


def _quieten_libraries() -> None:
    """What libraries log, and their warnings, go nowhere.

    They quote names of a model as they are, terminal escapes and newlines too, and places in files of Python that a
    user cannot act on. Warnings that were asked for stay: ``PYTHONWARNINGS=default modelopt …``.
    """
    import logging
    import warnings

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
