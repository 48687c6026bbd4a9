"""Print pip's arguments for where torch comes from: nothing where there is an NVIDIA driver, else a CPU build.

$TORCH_INDEX overrides. Where PyTorch's index of CPU builds does not answer, pip's default index is used, which works
too but downloads CUDA libraries that stay idle.
"""

import os
import shutil
import sys
import urllib.error
import urllib.request

index = os.environ.get("TORCH_INDEX", "")
if not index and not shutil.which("nvidia-smi"):
    public = sys.argv[1]
    try:
        urllib.request.urlopen(public, timeout=5).close()
        index = public
    except (OSError, urllib.error.URLError):
        print(f"{public} does not answer: torch comes from pip's default index", file=sys.stderr)
print(f"--index-url {index}" if index else "")
