"""A Python for arm64 with all that the tests import, in a folder: Debian's packages, unpacked, and wheels.

Nothing is installed on this machine, and no rights are needed. Both come from where apt and pip are set up to look.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("python3", "libstdc++6", "libgomp1")
_GLIBC = ("2_17", "2_24", "2_26", "2_27", "2_28")  # what Debian 12 and older ones have


def interpreter(folder: Path) -> Path:
    """The interpreter in a folder that `make` filled."""
    (found,) = [path for path in (folder / "root/usr/bin").glob("python3.*") if path.name[8:].isdecimal()]
    return found


def make(folder: Path) -> None:
    """Fill `folder`, unless it was filled before: ``root`` holds Debian's files, ``site`` the wheels.

    Raises:
        subprocess.CalledProcessError: apt or pip finds no such package.
        OSError: There is no apt-get or no dpkg-deb.
    """
    done = folder / "done"
    if done.exists():
        return
    state, cache, root = folder / "apt", folder / "cache", folder / "root"
    for path in (state / "lists/partial", cache / "archives/partial", root):
        path.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": str(state),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(cache),
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-qq", "-y", *(word for pair in settings.items() for word in ("-o", "=".join(pair)))]
    _run(*apt, "update")
    _run(*apt, "--download-only", "--no-install-recommends", "install", *_PACKAGES)
    for package in sorted((cache / "archives").glob("*.deb")):
        _run("dpkg-deb", "-x", str(package), str(root))
    _wheels(folder)
    done.touch()


def _wheels(folder: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    platforms = [f"--platform=manylinux_{version}_aarch64" for version in _GLIBC]
    platforms.append("--platform=manylinux2014_aarch64")
    version = interpreter(folder).name.removeprefix("python")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    place = [f"--python-version={version}", "--only-binary=:all:", "--upgrade", f"--target={folder / 'site'}"]
    _run(*pip, *place, *platforms, *wanted)
    # What is tested is this checkout; its C code is for another machine, and numpy counts there.
    (folder / "site/checkout.pth").write_text(f"{ROOT}\n")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
