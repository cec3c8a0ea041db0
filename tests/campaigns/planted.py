"""Passes that are wrong on purpose, among passes that are not: verification has to catch each and name it.

python -m tests.campaigns.planted
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
import onnx_ir as ir

from modelopt import passes
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.passes.base import Pass, option
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns.planted_bugs import BUGS, Bug
from tests.campaigns.planted_reach import REACH
from tests.campaigns.planted_zoo import zoo
from tests.campaigns.site import Site


@dataclass(frozen=True, kw_only=True)
class Planted(Pass):
    """Claims to be exact and is not."""

    name: ClassVar[str] = "planted"
    effect: ClassVar[Effect] = Effect.EXACT

    bug: str = option("", "which of BUGS or REACH")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        bug = BUGS[self.bug] if self.bug in BUGS else Bug(REACH[self.bug].edit)
        bug.edit(model)
        rewrites = 1
        if bug.honest is not None:
            rewrites += passes.find(bug.honest)().apply(model, ctx).rewrites
        return Changes(rewrites)


@dataclass(frozen=True)
class Catch:
    """What verification said of a bug.

    Attributes:
        bug: Its name.
        caught: Whether it failed.
        named: Whether it named the planted pass.
        message: What it said.
    """

    bug: str
    caught: bool
    named: bool
    message: str


def plant(site: Site, name: str) -> Catch:
    """Plant one bug among good passes."""
    before = [passes.find(each)() for each in ("eliminate-dead", "dedup-initializers")]
    after = [passes.find(each)() for each in ("fuse-conv-bn", "fuse-matmul-add", "merge-cast", "eliminate-dead")]
    planted = Planted(bug=name)
    message = site.check([*before, planted, *after])
    return Catch(name, message is not None, f"the pass {planted} " in (message or ""), message or "")


def names() -> list[str]:
    """All bugs."""
    return [*BUGS, *REACH]


def campaign(chosen: Sequence[str]) -> list[Catch]:
    """Plant each of the bugs called `chosen`.

    Raises:
        AssertionError: Verification fails where nothing is planted.
    """
    with tempfile.TemporaryDirectory(prefix="modelopt-planted-") as folder, Worker() as worker:
        runner = WorkerRunner()
        sites: dict[Callable[[], onnx.ModelProto], Site] = {}
        try:
            return [plant(_site_of(name, sites, Path(folder), runner, worker), name) for name in chosen]
        finally:
            runner.close()


def _site_of(
    name: str, sites: dict[Callable[[], onnx.ModelProto], Site], folder: Path, runner: WorkerRunner, worker: Worker
) -> Site:
    """The site of a bug, made once for all bugs in the same model, after a check that nothing is wrong there yet."""
    make = zoo if name in BUGS else REACH[name].model
    if make not in sites:
        sites[make] = Site(make(), folder / str(len(sites)) / "model.onnx", runner, worker)
        honest = [passes.find(each)() for each in ("eliminate-dead", "fuse-conv-bn", "fuse-conv-affine", "merge-cast")]
        alarm = sites[make].check(honest)
        if alarm is not None:
            raise AssertionError(f"a false alarm: {alarm}")
    return sites[make]


def main() -> int:
    """Run the campaign and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bugs", nargs="*", default=names())
    found = campaign(parser.parse_args().bugs)
    for catch in found:
        state = "named" if catch.named else "caught, another named" if catch.caught else "ESCAPED"
        print(f"{catch.bug:<34}{state:<24}{catch.message[:110]}")
    share_ = sum(catch.named for catch in found) / len(found)
    print(
        f"{len(found)} bugs, {sum(c.caught for c in found)} caught, {sum(c.named for c in found)} named: {share_:.1%}"
    )
    return 0 if share_ >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
