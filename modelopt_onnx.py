"""The console script's first step, outside the package that it starts.

NVIDIA's ``nvidia-modelopt`` installs an import package that is called ``modelopt`` too. Where both are installed their
files lie mixed in one folder, so the check must not need that folder: this module is the only one of ours outside it.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Refuse an environment that holds both packages, then start the command line."""
    site = os.path.dirname(os.path.abspath(__file__))
    places = {site, *(path for path in sys.path if path.endswith("-packages"))}
    if any(_has_clash(place) for place in places):
        sys.stderr.write(
            "modelopt: error: nvidia-modelopt is installed here and uses the same import name, modelopt\n"
            "hint: install modelopt-onnx in a virtual environment of its own\n"
        )
        raise SystemExit(4)
    from modelopt.cli import main as start

    start()


def _has_clash(folder: str) -> bool:
    try:
        return any(entry.startswith("nvidia_modelopt-") for entry in os.listdir(folder))
    except OSError:
        return False


if __name__ == "__main__":
    main()
