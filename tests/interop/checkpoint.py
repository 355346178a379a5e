"""Writes a checkpoint with Python's safetensors (`write FOLDER`), or reads the shards that the tool dumped of it (`check FOLDER DUMP`)."""

import json
import pathlib
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def tensors():
    random = np.random.default_rng(3)
    out = {"scalar": np.array(1.5, dtype=np.float32), "empty": np.zeros((0, 4), dtype=np.float16)}
    for dtype in (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_):
        name = np.dtype(dtype).name
        out[f"layers.0.{name}"] = random.integers(0, 2, (7, 5)).astype(dtype)
        out[f"layers.1.{name}"] = (random.random((4, 3, 2)) * 100).astype(dtype)
    return out


def write(folder):
    """Two files and an index, as the Hugging Face hub has them."""
    folder.mkdir(parents=True)
    names = sorted(tensors())
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in files.items():
        save_file({name: tensors()[name] for name in members}, folder / file, metadata={"format": "np"})
    where = {name: file for file, members in files.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def check(dump):
    """Puts the shards of all ranks together."""
    ranks = sorted(dump.glob("rank-*.safetensors"))
    assert len(ranks) == 3, ranks
    parts = {}
    for rank in ranks:
        with safe_open(rank, framework="np") as file:
            places = json.loads(file.metadata()["tensors"])
            assert sorted(places) == sorted(file.keys())
            for name in file.keys():
                parts.setdefault(name, []).append((places[name], file.get_tensor(name)))
    wanted = tensors()
    assert sorted(parts) == sorted(wanted)
    for name, of_ranks in parts.items():
        whole = [part for place, part in of_ranks if place["dim"] is None]
        got = whole[0] if whole else np.concatenate([part for _, part in of_ranks], axis=of_ranks[0][0]["dim"])
        assert got.dtype == wanted[name].dtype and np.array_equal(got, wanted[name]), name
    print(f"{len(wanted)} tensors of {len(ranks)} ranks are those that Python wrote")


if sys.argv[1] == "write":
    write(pathlib.Path(sys.argv[2]))
else:
    check(pathlib.Path(sys.argv[2]))
