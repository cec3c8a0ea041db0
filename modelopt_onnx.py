"""The console script's first step, outside the package that it starts.

NVIDIA's ``nvidia-modelopt`` installs an import package that is called ``modelopt`` too. Where both are installed their
files lie mixed in one folder, so the check must not need that folder: this module is the only one of ours outside it.
"""

from __future__ import annotations

import os
import sys
from _signal import SIG_DFL, SIG_IGN, SIGINT, SIGTERM, getsignal, signal  # `signal` itself imports more

try:
    from _signal import SIGHUP

    _ENDING: tuple[int, ...] = (SIGINT, SIGTERM, SIGHUP)
except ImportError:  # on Windows, which the command line refuses in words
    _ENDING = (SIGINT, SIGTERM)


def main() -> None:
    """Refuse an environment that holds both packages, then start the command line."""
    handled = [number for number in _ENDING if getsignal(number) not in (SIG_IGN, None)]
    for number in handled:
        signal(number, _quit)
    site = os.path.dirname(os.path.abspath(__file__))
    places = {site, *(path for path in sys.path if path.endswith("-packages"))}
    if any(_has_clash(place) for place in places):
        _say(
            "modelopt: error: nvidia-modelopt is installed here and uses the same import name, modelopt\n"
            "hint: install modelopt-onnx in a virtual environment of its own\n"
        )
        raise SystemExit(4)
    try:
        from modelopt.cli import main as start
    except (ImportError, OSError, MemoryError) as error:  # an installation that lost files, or a limit of the shell
        reason = str(error).partition("\n")[0] or "out of memory"
        _say(f"modelopt: error: modelopt cannot be imported\nnote: {reason}\n")
        raise SystemExit(4) from None
    try:
        start()
    finally:
        for number in handled:
            signal(number, SIG_DFL)  # while Python ends, a signal ends it without a traceback


def _quit(number: int, _frame: object) -> None:
    """End at once: the modules are being imported, and nothing was begun."""
    _say("\nmodelopt: interrupted, nothing was written\n")
    os._exit(128 + number)


def _say(text: str) -> None:
    try:
        os.write(2, text.encode(errors="backslashreplace"))
    except OSError:  # closed or full
        return


def _has_clash(folder: str) -> bool:
    try:
        return any(entry.startswith("nvidia_modelopt-") for entry in os.listdir(folder))
    except OSError:
        return False


if __name__ == "__main__":
    main()
