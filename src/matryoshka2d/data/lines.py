"""Lines of a file: compressed or not, in UTF-8 or UTF-16, from any system, with their numbers."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from matryoshka2d.errors import UserError, needs

COMPRESSIONS = (".gz", ".zst")
_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Bytes that are looked at to see how a file is written.
_HEAD = 1 << 16


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield (1-based number, line with its end) as the lines are read.

    A line ends with ``\n``, and where a file has none at all, with ``\r``. The rarer separators of Unicode,
    such as U+2028, are characters like any other. A byte order mark is left out.

    Parameters
    ----------
    path
        A file of text in UTF-8, or in UTF-16 with its mark; gzip and zstd are told by their first bytes.

    Raises
    ------
    UserError
        If the file cannot be read, is not whole, or is not text; the message names the line.
    """
    number = 0
    try:
        with _open(path) as file:
            head = file.peek(_HEAD)[:_HEAD]
            for line in _lines(file, head, path):
                number += 1
                yield number, line
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        kind = error.encoding.upper()
        raise UserError(
            f"{path}, line {number + 1}: byte 0x{byte:02x} is not {kind}: save the file as UTF-8"
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(_reason(path, error)) from error


def filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, without their ends."""
    stripped = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in numbered_lines(path))
    return ((number, line) for number, line in stripped if line.strip())


def without_compression(path: Path) -> str:
    """Return the name of a file without what says how it is compressed.

    >>> without_compression(Path("rows/pairs.tsv.GZ"))
    'pairs.tsv'
    """
    return path.stem if path.suffix.lower() in COMPRESSIONS else path.name


def _open(path: Path) -> io.BufferedReader:
    """Open a file for its bytes as they were before they were compressed."""
    start, suffix = _first_bytes(path), path.suffix.lower()
    raw: Any
    if start.startswith(_GZIP) or suffix == ".gz":
        raw = gzip.GzipFile(path)
    elif start.startswith(_ZSTD) or suffix == ".zst":
        needs("cli", "pyarrow")
        import pyarrow

        raw = pyarrow.input_stream(str(path), compression="zstd", buffer_size=_HEAD)
    else:
        raw = path.open("rb", buffering=0)
    return io.BufferedReader(cast(io.RawIOBase, raw), _HEAD)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _lines(file: io.BufferedReader, head: bytes, path: Path) -> Iterator[str]:
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if (encoding is None and b"\0" in head and head.count(b"\0") * 4 > len(head)) or head.startswith(_ZIP):
        kind = "a zip archive: unpack it" if head.startswith(_ZIP) else "not text: save the file as UTF-8"
        raise UserError(f"{path} is {kind}")
    if encoding is None and (b"\n" in head or b"\r" not in head):
        for place, line in enumerate(file):
            yield line.decode("utf-8" if place else "utf-8-sig")
        return
    # Spreadsheets write UTF-16, and old systems end lines in their own way: such files are small.
    text = file.read().decode(encoding or "utf-8-sig")
    yield from io.StringIO(text, newline="\n" if "\n" in text else "\r")


def _reason(path: Path, error: Exception) -> str:
    """Return what is said of a file that the system or a decompressor cannot read."""
    name = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower(), "gzip or zstd")
    said = getattr(error, "strerror", None)
    if said and not isinstance(error, gzip.BadGzipFile):
        return f"cannot read {path}: {said}"
    return f"{path} is not a whole {name} file: {error}; compress or download it again"
