"""Compiles bincount.c of modelopt/calibration while the package is built; numpy counts where there is no C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Compile(BuildHookInterface[Any]):
    """Adds modelopt/calibration/libbincount.so to a wheel, or puts it beside the source of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See `BuildHookInterface.initialize`; called before the files are collected."""
        if self.target_name != "wheel":
            return
        source = Path(self.root, "modelopt", "calibration", "bincount.c")
        target = source.with_name("libbincount.so")
        target.unlink(missing_ok=True)
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            return
        command = [compiler, "-O3", "-shared", "-fPIC", "-o", str(target), str(source)]
        if subprocess.run(command, check=False).returncode == 0:
            build_data["artifacts"].append("modelopt/calibration/libbincount.so")
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
