"""The command line: click commands turn flags into a recipe and give it to the engine; the console prints.

Nothing below this room imports click or rich. Commands are imported when they are called.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType

import click

from modelopt import __version__
from modelopt.core.errors import ExitCode, ModeloptError, did_you_mean
from modelopt.core.systems import require_supported

COMMANDS: dict[str, str] = {
    "inspect": "Show what a model is made of.",
    "fold": "Fold constants and remove what does nothing.",
    "fuse": "Merge operators into fewer, faster ones.",
    "prune": "Set the smallest weights to zero.",
    "quantize": "Convert to int8 with calibration data.",
    "bench": "Measure latency, models side by side.",
    "compare": "Compare two models: size, latency, accuracy.",
    "run": "Run a recipe.",
    "recipes": "List the recipes that come with modelopt, or print one.",
    "passes": "List the passes, or explain one.",
    "log": "Show how a model was made.",
    "makefile": "Print make rules to include in a Makefile.",
    "completion": "Print a shell completion script.",
}


class LazyGroup(click.Group):
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
70 a bug of ours, 130 interrupted.""",
)
@click.version_option(__version__, "-V", "--version", message="modelopt %(version)s")
def cli() -> None:
    """Optimize ONNX models and prove it: what comes out is verified and measured beside the original."""


def main() -> None:
    """Run the command line and turn every ending into its exit code."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    _quieten_libraries()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        require_supported()
        code = cli.main(prog_name="modelopt", standalone_mode=False)
    except ModeloptError as error:
        code = error.exit_code
        _say(error.fact, error.note, error.hint or (_REPORT_IT if code is ExitCode.BUG else None))
    except click.exceptions.Abort:
        code = _interrupted()
    except click.ClickException as error:
        fact, _, hint = error.format_message().partition("\nhint: ")
        _say(fact, None, hint or _usage_hint(error))
        code = ExitCode.BAD_INPUT
    except KeyboardInterrupt:
        code = _interrupted()
    except BrokenPipeError:
        code = _reader_left()
    except MemoryError:
        _say("out of memory", None, "close other programs, or use a machine with more memory")
        code = ExitCode.ENVIRONMENT
    except Exception:  # noqa: BLE001 - the last line of defence: a traceback, how to report it, exit 70
        import traceback

        lines = traceback.format_exc().splitlines()
        print("\n".join(map(_one_line, lines)), file=sys.stderr)  # noqa: T201 - it may quote a model's names
        _say_bug()
        code = ExitCode.BUG
    sys.exit(int(code or 0))


def _quieten_libraries() -> None:
    """What libraries log goes nowhere: they quote names of a model as they are, terminal escapes and newlines too."""
    import logging

    logging.getLogger().addHandler(logging.NullHandler())


def _say(fact: str, note: str | None, hint: str | None) -> None:
    lines = [f"modelopt: error: {_one_line(fact)}"]
    if note:
        lines.append(f"note: {_one_line(note)}")
    if hint:
        lines.append(f"hint: {_one_line(hint)}")
    print("\n".join(lines), file=sys.stderr)  # noqa: T201 - errors must not need rich


def _one_line(text: str) -> str:
    """Untrusted names may hold newlines and terminal escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


_REPORT_IT = "please report it with the lines above and, if you can, the model"


def _say_bug() -> None:
    _say(
        "this is a bug in modelopt",
        f"modelopt {__version__}, Python {sys.version.split()[0]}",
        _REPORT_IT,
    )


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else None


def _interrupted() -> ExitCode:
    print("modelopt: interrupted, nothing was written", file=sys.stderr)  # noqa: T201 - as above
    return ExitCode.INTERRUPTED


def _reader_left() -> ExitCode:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python flushes at exit must not fail again
    return ExitCode.BAD_INPUT


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
