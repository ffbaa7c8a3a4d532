"""Writing a model and its external data: whole or not at all, the same bytes for the same model.

A model is staged in a folder beside its destination, under its final names, so that it can be opened and verified
there; `Staged.commit` then moves it into place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data

from ..errors import ModelError
from .model import Model, tensors

EXTERNAL_FROM = 1024
"""Tensors of at least so many bytes go to the external file of a model that keeps its weights outside."""

INSIDE_LIMIT = 2**31 - 2**20


def data_of(path: Path) -> Path:
    """Where a model that is written there keeps its weights, if outside."""
    return path.with_name(f"{path.name}.data")


def refuse_overwriting(destination: Path, source: Model) -> None:
    """Say before anything is done that a model would be written over the one that it is made from.

    Raises:
        ModelError: the source, or its external data, lies where the result or its external data would go.
    """
    held = [source.path, *(source.path.parent / name for name in source.external_files())] if source.path else []
    for place in (destination, data_of(destination)):
        if place.exists() and any(path.exists() and path.samefile(place) for path in held):
            raise ModelError("output would overwrite the input", file=str(place), cure="give another output path")


class Staged:
    """A model written beside its destination, not yet in its place; a context manager that cleans up."""

    def __init__(self, model: onnx.ModelProto, source: Model, destination: Path, *, verbatim: bool = False):
        """Write `model` to a staging folder.

        Args:
            model: the result; tensors that were not changed may still point into the source's external data.
            source: where it came from.
            destination: the final path.
            verbatim: the result is the source, so its file is copied byte for byte (unless it has external data,
                whose file gets the result's name).

        Raises:
            ModelError: the destination is a folder or a device, or a link where weights go beside it; or its folder
                does not exist, cannot be written or is full.
        """
        if destination.exists() and not destination.is_file():
            what = "is a folder" if destination.is_dir() else "is no file that could be replaced"
            raise ModelError(what, file=str(destination), cure="give the path of a file")
        self._outside = bool(source.external_files()) or model.ByteSize() > INSIDE_LIMIT
        if destination.is_symlink():  # what it points to is written, not the link
            if self._outside:
                raise ModelError(
                    "is a link, and weights lie beside a model", file=str(destination), cure="give its target"
                )
            destination = destination.resolve()
        self.destination = destination
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
        except OSError as error:
            raise ModelError(
                f"cannot write there: {error.strerror}", file=str(destination), cure="give a folder that exists"
            ) from error
        self.path = self._folder / destination.name
        try:
            if verbatim and source.path is not None and not self._outside:
                shutil.copyfile(source.path, self.path)
                return
            proto = onnx.ModelProto()
            proto.CopyFrom(model)
            self._write(proto, source)
        except OSError as error:
            self.discard()
            raise ModelError(f"cannot write there: {error.strerror}", file=str(destination)) from error
        except BaseException:
            self.discard()
            raise

    def _write(self, proto: onnx.ModelProto, source: Model) -> None:
        if self._outside:
            data = data_of(self.path)
            with data.open("wb") as file:
                for tensor in tensors(proto.graph):
                    content = source.array(tensor).tobytes() if uses_external_data(tensor) else tensor.raw_data
                    if not uses_external_data(tensor) and len(content) < EXTERNAL_FROM:
                        continue
                    offset = -(-file.tell() // 64) * 64
                    file.write(b"\0" * (offset - file.tell()))
                    file.write(content)
                    tensor.ClearField("raw_data")
                    tensor.raw_data = b""
                    set_external_data(tensor, data.name, offset, len(content))
                    tensor.ClearField("raw_data")
        self.path.write_bytes(proto.SerializeToString(deterministic=True))

    def commit(self) -> None:
        """Move everything into place, the model last, so that a model never lacks its data.

        Raises:
            ModelError: the system refuses.
        """
        data = data_of(self.path)
        try:
            if data.exists():
                os.replace(data, self.destination.parent / data.name)
            os.replace(self.path, self.destination)
        except OSError as error:
            raise ModelError(f"cannot write there: {error.strerror}", file=str(self.destination)) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was staged."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def file_bytes(path: Path) -> int:
    """Size of a model on disk, its external data included."""
    proto = onnx.load_model(str(path), load_external_data=False)
    names = {ExternalDataInfo(t).location for t in tensors(proto.graph) if uses_external_data(t)}
    return path.stat().st_size + sum((path.parent / n).stat().st_size for n in names if (path.parent / n).is_file())
