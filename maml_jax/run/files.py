"""Files of a run: written whole, read as UTF-8, JSON without bare NaN."""

import contextlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from maml_jax.errors import UsageError, first_line

Record = dict[str, Any]  # a JSON object

_LONG = 120  # characters of a message that another one includes
_NOT_FINITE = "_not_finite"  # ends the name of the field that says what a null stands for
TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # the number is the process that writes it


class DamagedError(UsageError):
    """What a file holds cannot be used."""


def local_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a workdir, with ~ expanded.

    Raises:
      UsageError: the path is empty or a URL, or there is no home folder.
    """
    path = os.fspath(folder)
    if not path:
        raise UsageError("the workdir is empty; give a folder, as runs/sinusoid")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path):
        raise UsageError(f"workdir {path} is a URL; give a folder of this machine")
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"workdir {path}: {error}; give a path without ~") from error


def unwritable(path: pathlib.Path, error: Exception) -> UsageError:
    """Says that a file cannot be written, and why."""
    return UsageError(
        f"{path} cannot be written ({reason_of(error)}); what was there is kept. Make room or get "
        "write access and call the same command again, or use another --workdir"
    )


def reason_of(error: Exception) -> str:
    """What the system said, or the end of the first line of an error of Orbax."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    line = first_line(error).partition(" [tensorstore_spec")[0]
    return line if len(line) <= _LONG else f"... {line[-_LONG:]}"


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns what the system refuses into a UsageError that names the file."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file whole: at any moment it holds what it held before, or all of `content`.

    Raises:
      UsageError: the file cannot be written.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read(path: pathlib.Path) -> str | None:
    """The text of a file, or None if there is no such file.

    Raises:
      DamagedError: it is not UTF-8.
      UsageError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path} is not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error


def dumps(record: Record, indent: int | None = None) -> str:
    """JSON in which a number that is not finite is null.

    A field beside it, KEY_not_finite, says what it was; `loads` reads it back.
    """
    return json.dumps(_without(record), indent=indent, allow_nan=False)


def loads(text: str, name: object) -> Record:
    """The JSON object of a text; also takes bare NaN, as older runs wrote it.

    Raises:
      DamagedError: the text is none; `name` says where it is from.
    """
    try:
        record = json.loads(text, object_hook=with_not_finite)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise DamagedError(f"{name} holds no valid JSON ({first_line(error)})") from error
    if not isinstance(record, dict):
        raise DamagedError(f"{name} holds no JSON object, but a {type(record).__name__}")
    return record


def read_json(path: pathlib.Path) -> Record | None:
    """The JSON object in a file, or None if there is no such file.

    Raises:
      DamagedError: the file holds none.
      UsageError: it cannot be read.
    """
    text = read(path)
    return None if text is None else loads(text, path)


def _reason(value: Any) -> Any:
    """What is not finite: "nan" for a number, {index: reason} for a list; else empty."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, list | tuple):
        return {str(i): reason for i, item in enumerate(value) if (reason := _reason(item))}
    return None


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        reasons = {f"{key}{_NOT_FINITE}": _reason(item) for key, item in value.items()}
        finite = {key: _without(item) for key, item in value.items()}
        return finite | {key: reason for key, reason in reasons.items() if reason}
    if isinstance(value, list | tuple):
        return [_without(item) for item in value]
    return None if _reason(value) else value


def with_not_finite(record: Record) -> Record:
    """The object with the numbers that a field beside them says, in place of null."""
    for key, reason in list(record.items()):
        name = key.removesuffix(_NOT_FINITE)
        if name != key and name in record and isinstance(reason, str | dict):
            record[name] = _restored(record[name], record.pop(key))
    return record


def _restored(value: Any, reason: Any) -> Any:
    if isinstance(reason, str):
        return float(reason)
    for index, of in reason.items():
        value[int(index)] = _restored(value[int(index)], of)
    return value
