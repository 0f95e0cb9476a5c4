"""The workdir of a run on several hosts: that of the writer, and copies that others work in.

Every process then does the same with its own files, and needs no file system that all can see.
"""

import atexit
import io
import pathlib
import shutil
import tarfile
import tempfile

from maml_jax.parallel.hosts import is_writer, number_of_processes, shared

_LEFT_OUT = ("tensorboard", "report.html", "jobs")  # what no process reads


def mirrored(workdir: pathlib.Path) -> pathlib.Path:
    """The workdir that this process works in: in the writer the given one, in others a copy."""
    if number_of_processes() == 1:
        return workdir
    content = shared(lambda: _packed(workdir))
    if is_writer():
        return workdir
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="maml_jax_"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(scratch, filter="data")
    return scratch


def _packed(workdir: pathlib.Path) -> bytes:
    """The files of a workdir as a tar archive; empty if there are none yet."""
    buffer = io.BytesIO()

    def without_outputs(of: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if pathlib.PurePath(of.name).name in _LEFT_OUT else of

    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(workdir.iterdir()) if workdir.is_dir() else ():
            archive.add(path, path.name, filter=without_outputs)
    return buffer.getvalue()
