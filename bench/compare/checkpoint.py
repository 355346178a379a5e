"""What a checkpoint holds, with the standard library alone: names, shapes, places, and the shards expected of it."""

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1}


@dataclass
class Tensor:
    file: Path
    dtype: str
    shape: list[int]
    begin: int  # of its bytes in the file
    bytes: int


def header_of(file):
    """(name -> entry, where the data begins)"""
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def files_of(folder):
    return sorted(Path(folder).glob("*.safetensors"))


def tensors_of(files):
    """Name -> Tensor, in the order of the files and their headers."""
    tensors = {}
    for file in files:
        header, data = header_of(file)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            tensors[name] = Tensor(file, entry["dtype"], entry["shape"], data + begin, end - begin)
    return tensors


def digest_text(dtype, shape, data):
    return f"{dtype} {list(shape)} {hashlib.sha256(data).hexdigest()}"


def _read(descriptor, tensor):
    return os.pread(descriptor, tensor.bytes, tensor.begin) if tensor.bytes else b""


def file_digests(file):
    """Name -> digest of every tensor in one file."""
    with open(file, "rb") as stream:
        return {
            name: digest_text(tensor.dtype, tensor.shape, _read(stream.fileno(), tensor))
            for name, tensor in tensors_of([file]).items()
        }


def shard_digests(tensors, ranks):
    """For each rank name -> digest of the rows that `torch.chunk` gives it: what every contender has to end with."""
    shards = [{} for _ in range(ranks)]
    for name, tensor in tensors.items():
        with open(tensor.file, "rb") as stream:
            data = memoryview(_read(stream.fileno(), tensor))
        rows = tensor.shape[0]
        chunk = -(-rows // ranks)
        row_bytes = tensor.bytes // rows if rows else 0
        for rank, shard in enumerate(shards):
            first, last = min(rank * chunk, rows), min((rank + 1) * chunk, rows)
            part = data[first * row_bytes : last * row_bytes]
            shard[name] = digest_text(tensor.dtype, [last - first, *tensor.shape[1:]], part)
    return shards
