"""Lets torchvision's Python half import beside a CPU build of torch.

PyPI's Linux wheels of torchvision link CUDA; beside a CPU torch their operators are absent and `import torchvision`
fails, and with it transformers and vLLM's multimodal models. The transforms those two use are plain Python, so declaring
the two operators that torchvision annotates at import is enough. vLLM looks at model classes in a fresh interpreter, so
the declaration has to be made by every interpreter of the environment: `python -m posttrain.torchvision_cpu` copies this
file into site-packages with a `.pth` line that calls `install_hook`. It does so only where torchvision cannot load.

This file imports nothing but the standard library at top level: it runs at the start of every interpreter.
"""

import importlib.abc
import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

HOOK_MODULE = "_torchvision_cpu_hook"
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Declares the missing operators when torchvision is first looked up, then steps aside."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Never finds a module itself; the declaration is its only effect."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()
        return None


def _declare_operators() -> None:
    import torch

    if torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in OPERATORS:
        library.define(schema)
    _keep_alive.append(library)


_keep_alive: list[object] = []


def install_hook() -> None:
    """Called by the `.pth` line at interpreter start; `site` reads it twice where lib64 links to lib."""
    if not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())


def torchvision_loads() -> bool:
    """Whether a fresh interpreter of this environment can import torchvision (True when it is not installed)."""
    if not any(importlib.metadata.distributions(name="torchvision")):
        return True
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode == 0


def main() -> int:
    """Installs the hook into this environment if torchvision needs it; returns the exit code."""
    if torchvision_loads():
        print("torchvision loads; nothing to do")
        return 0
    site_packages = Path(sysconfig.get_paths()["purelib"])
    shutil.copyfile(__file__, site_packages / f"{HOOK_MODULE}.py")
    (site_packages / f"{HOOK_MODULE}.pth").write_text(f"import {HOOK_MODULE}; {HOOK_MODULE}.install_hook()\n")
    if not torchvision_loads():
        print("torchvision still cannot be imported; run `python -c 'import torchvision'` to see why", file=sys.stderr)
        return 1
    print(f"torchvision cannot load its operators beside this torch: declared them in {site_packages / HOOK_MODULE}.pth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
