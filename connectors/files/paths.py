"""Where files are: local paths and URIs, globs and directories, resolved to a file system and paths on it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from lakeward.engine.core.errors import ConfigError, SourceError
from lakeward.engine.core.expect import expect, refusal

SUFFIXES = {
    "parquet": (".parquet", ".parq", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv"),
}
"""How names of each format end, before a compression's ending."""

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True, slots=True)
class Location:
    """A place on a file system.

    Args:
        filesystem: The file system.
        path: The path on it.
        prefix: What makes a URI of the path again ("s3://"); "" for local paths.
    """

    filesystem: fs.FileSystem
    path: str
    prefix: str

    @property
    def name(self) -> str:
        """As a reader would write it."""
        return self.prefix + self.path


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as it was when it was listed.

    Args:
        path: On its file system.
        size_bytes: Its length.
        mtime_ns: Its last change, nanoseconds since 1970 UTC; -1 where the file system does not say.
    """

    path: str
    size_bytes: int
    mtime_ns: int


def place_text(place: object, what: str, example: str) -> str:
    """A path or URI as text.

    Args:
        place: What the user gave.
        what: Whose argument it is, for the error.
        example: What it may look like.

    Raises:
        ConfigError: It is no path, or empty.
    """
    hint = f"give a path or a URI, for example {example!r}"
    expect(place, (str, os.PathLike), what, hint)
    text = os.fspath(place)  # type: ignore[call-overload]
    if not text or not isinstance(text, str):
        raise refusal(text, what, hint)
    return text


def resolve(place: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> Location:
    """The location of a local path or URI; nothing is read.

    >>> resolve("file:///data/orders").path, resolve("/data/../data/orders").path
    ('/data/orders', '/data/orders')

    Raises:
        ConfigError: The URI's scheme is not known.
    """
    text = os.fspath(place)
    if filesystem is not None:
        return Location(filesystem, text, f"{filesystem.type_name}:")
    if "://" not in text:
        return Location(fs.LocalFileSystem(), Path(text).expanduser().absolute().resolve().as_posix(), "")
    try:
        found, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(
            f"{text!r} is no place for files: {error}", hint="a local path, file://, s3:// or gs://"
        ) from error
    scheme = text.partition("://")[0]
    return Location(found, path, "" if scheme == "file" else f"{scheme}://")


def compression_of(path: str) -> str | None:
    """The compression that a text file's name tells.

    >>> compression_of("a/orders.jsonl.gz"), compression_of("orders.csv")
    ('gzip', None)
    """
    return _COMPRESSIONS.get(os.path.splitext(path)[1].lower())


def list_files(place: str | os.PathLike[str], suffixes: tuple[str, ...]) -> tuple[Location, list[FileFacts]]:
    """Every file that a path, a directory or a glob names, sorted by path.

    Names that begin with "_" or "." are left out of directories and globs: they are staging areas, logs and markers.
    From a directory, files of the format's suffixes are taken, at any depth; a glob names what it names.

    Raises:
        ConfigError: There is nothing there, or files of another format only: trying again would not help.
        SourceError: It cannot be read.
    """
    text = os.fspath(place)
    location = location_of(text)
    pattern = _pattern(text)
    try:
        found = _matching(location, pattern) if pattern else _plain(location, suffixes)
        if not found and not pattern:
            _check_other_formats(text, location)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{text} cannot be listed: {error}", hint="check the path and the rights to it") from error
    if not found:
        raise ConfigError(f"{text} has no files to read", hint=f"looked for names ending in {', '.join(suffixes)}")
    return location, sorted(found, key=lambda file: file.path)


def location_of(place: str | os.PathLike[str]) -> Location:
    """Where a path lies, or, of a glob, the directory before its first wildcard."""
    text = os.fspath(place)
    return resolve(text.removesuffix(_pattern(text)) or ".")


def facts_of(filesystem: fs.FileSystem, path: str) -> FileFacts | None:
    """The file as it is now; None when it is gone."""
    info = filesystem.get_file_info(path)
    return _facts(info) if info.type == fs.FileType.File else None


def _facts(info: fs.FileInfo) -> FileFacts:
    return FileFacts(info.path, int(info.size or 0), -1 if info.mtime_ns is None else int(info.mtime_ns))


def _pattern(text: str) -> str:
    """What follows the last directory before the first wildcard; "" when there is none, or such a file exists."""
    remote = "://" in text
    wildcard = re.search(r"[*\[]" if remote else r"[*?\[]", text)
    if wildcard is None or (not remote and Path(text).exists()):
        return ""
    return text[text.rfind("/", 0, wildcard.start()) + 1 :]


def _plain(location: Location, suffixes: tuple[str, ...]) -> list[FileFacts]:
    info = location.filesystem.get_file_info(location.path)
    if info.type != fs.FileType.Directory:
        return [_facts(info)] if info.type == fs.FileType.File else []
    return [file for file, _ in _walk(location) if has_suffix(file.path, suffixes)]


def _check_other_formats(text: str, location: Location) -> None:
    """Refuse a directory that has no file of the format to read, but of another."""
    for name, suffixes in SUFFIXES.items():
        if others := _plain(location, suffixes):
            shown = os.path.basename(others[0].path)
            raise ConfigError(
                f"{text} has no files of the format to read, but {len(others)} of the format {name}, as {shown}",
                hint=f'say so: FilesSource(..., format="{name}")',
            )


def check_endings(name: str, files: Sequence[FileFacts]) -> None:
    """Refuse files whose ending speaks against a format that nobody said they have.

    Args:
        name: The format that they would be read as.
        files: All of them.

    Raises:
        ConfigError: Names the first such file and the formats there are.
    """
    for file in files:
        ending = os.path.splitext(file.path)[1]
        if ending and not has_suffix(file.path, SUFFIXES[name]):
            known = next((other for other, suffixes in SUFFIXES.items() if has_suffix(file.path, suffixes)), None)
            said = "..." if known is None else f'"{known}"'
            endings = ", ".join(f'"{other}" ({", ".join(suffixes)})' for other, suffixes in SUFFIXES.items())
            raise ConfigError(
                f"{file.path} would be read as {name}, but ends in {ending!r}",
                hint=f"say what it is: FilesSource(..., format={said}); the formats are {endings}",
            )


def _matching(location: Location, pattern: str) -> list[FileFacts]:
    matcher = re.compile(_glob_regex(pattern.lstrip("/")))
    return [file for file, below in _walk(location) if matcher.fullmatch(below)]


def _walk(location: Location) -> list[tuple[FileFacts, str]]:
    """All visible files below a directory, each with its path below it."""
    base = location.path.rstrip("/") + "/"
    infos = location.filesystem.get_file_info(fs.FileSelector(location.path, recursive=True, allow_not_found=True))
    files = [(_facts(info), info.path[len(base) :]) for info in infos if info.type == fs.FileType.File]
    return [(file, below) for file, below in files if not any(part[0] in "_." for part in below.split("/") if part)]


def has_suffix(path: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name ends so, leaving a compression's ending aside."""
    name = path.lower()
    for ending in _COMPRESSIONS:
        name = name.removesuffix(ending)
    return name.endswith(suffixes)


def _glob_regex(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stay within a directory, `**` crosses them.

    >>> [bool(re.fullmatch(_glob_regex(glob), "x/a.csv")) for glob in ("**/a*.csv", "?/[ab].csv", "*.csv")]
    [True, True, False]
    """
    translated = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", pattern)
    return "".join(
        translated.get(token) or (f"[{token[1:-1].replace('!', '^', 1)}]" if token[:1] == "[" else re.escape(token))
        for token in tokens
    )
