"""The build hook of the wheel: compiles core/ and packs the library into linnet/engine/.

LINNET_CC names another compiler than zig; LINNET_TARGET (a name of core/build.py's
TARGETS) builds the wheel of another machine.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CoreBuildHook(BuildHookInterface[Any]):
    """Found by hatchling through ``[tool.hatch.build.targets.wheel.hooks.custom]``."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds the library: beside the sources for an editable install, else into the wheel."""
        build = _core_build(Path(self.root))
        wanted = os.environ.get("LINNET_TARGET", "")
        if wanted and wanted not in build.TARGETS:
            raise SystemExit(f"LINNET_TARGET={wanted} is not one of {', '.join(build.TARGETS)}")
        target = build.TARGETS[wanted] if wanted else build.host_target()
        inside = f"linnet/engine/{target.library_name}"
        if version == "editable":
            library = Path(self.root, inside)
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="linnet-core-")
            library = Path(self._folder.name, target.library_name)
            build_data["force_include"][str(library)] = inside
        try:
            build.compile_library(library, target)
        except build.CompileError as error:
            raise SystemExit(f"cannot compile the core of Linnet: {error}") from None
        build_data["pure_python"] = False
        portable = target.wheel_tag if wanted or build.uses_zig() else ""
        build_data["tag"] = f"py3-none-{portable or _host_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the temporary library once it is packed."""
        if version != "editable":
            self._folder.cleanup()


def _core_build(root: Path) -> ModuleType:
    """core/build.py as a module. It is no package: it has to run with nothing installed."""
    path = root / "core" / "build.py"
    spec = importlib.util.spec_from_file_location("linnet_core_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _host_tag() -> str:
    """The platform tag that promises no more than this very machine."""
    if sys.platform == "darwin":
        release = platform.mac_ver()[0].split(".")[0]
        return f"macosx_{release}_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
