"""Installs the independent model servers of the tests: pinned versions, each file checked by its hash.

    python3 install.py WHERE

From the npm registry comes aimock, into WHERE/node_modules; from PyPI come xllamacpp and the SDKs openai and anthropic, into
the virtual environment WHERE/python. Nothing is done where the same was installed already.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PINNED = ["package.json", "package-lock.json", "requirements.txt"]
# What aimock asks for.
OLDEST_NODE = (20, 15)


def say(program: list[str]) -> str:
    """What a program says, or nothing where there is none."""
    try:
        return subprocess.run(program, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def node_version() -> str:
    """The version of Node.js, which must be there with npm."""
    version = say(["node", "--version"])
    found = tuple(int(part) for part in version.lstrip("v").split(".")[:2]) if version else ()
    if found < OLDEST_NODE or not say(["npm", "--version"]):
        oldest = ".".join(map(str, OLDEST_NODE))
        sys.exit(f"Node.js {oldest} or newer with npm is needed, and here is {version or 'none'}: install nodejs and npm")
    return version


def wanted(node: str) -> str:
    """Names what is to be installed, for which machine."""
    digest = hashlib.sha256(f"{node} {sys.executable} {platform.python_version()}".encode())
    for name in PINNED:
        with open(os.path.join(HERE, name), "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def install(where: str) -> None:
    """Installs into an empty folder."""
    shutil.rmtree(where, ignore_errors=True)
    os.makedirs(where)
    for name in PINNED[:2]:
        shutil.copy(os.path.join(HERE, name), where)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=where, check=True)
    python = os.path.join(where, "python")
    # Without pip of its own, since Debian's Python cannot put one there; the caller's installs into it.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python], check=True)
    pip = [sys.executable, "-m", "pip", "--python", os.path.join(python, "bin", "python"), "install", "-q"]
    pip += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    subprocess.run(pip + ["-r", os.path.join(HERE, "requirements.txt")], check=True)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    where = os.path.abspath(sys.argv[1])
    stamp = os.path.join(where, "installed")
    name = wanted(node_version())
    try:
        with open(stamp, encoding="ascii") as file:
            is_there = file.read() == name
    except OSError:
        is_there = False
    if not is_there:
        install(where)
        with open(stamp, "w", encoding="ascii") as file:
            file.write(name)


main()
