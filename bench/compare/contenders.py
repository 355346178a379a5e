"""One rank of one Python contender: loads a checkpoint and reports its seconds and its memory.

Timed, from a barrier to the barrier after it: opening the files, loading, sharding. Not timed: imports, the process
group, the model on meta with `fully_shard` applied (but for `whole`, which can shard only what it has loaded), and a
load of a tiny model before, which brings in whatever PyTorch imports and connects late.
"""

import json
import os
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import PartialState
from accelerate.utils.fsdp_utils import fsdp2_load_full_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from checkpoint import digest_text, files_of, tensors_of

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


# -- the model: a tree of modules with the checkpoint's names and shapes ----------------------------------------------


def meta_model(tensors):
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, torch.nn.Module())
            node = node._modules[part]
        data = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype], device="meta")
        node.register_parameter(last, torch.nn.Parameter(data, requires_grad=False))
    return root


def shard_model(model, mesh):
    """Every layer (`layers.0`, `h.1`) is a unit, the rest is the root's."""
    for name, module in model.named_modules():
        parts = name.split(".")
        if parts[-1].isdigit() and not any(part.isdigit() for part in parts[:-1]):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


# -- the contenders: (checkpoint, files, model on meta, rank, ranks, mesh) -> name -> local shard ---------------------


def load_all(files):
    state = {}
    for file in files:
        state.update(load_file(file))
    return state


def local_shards(model):
    state = model.state_dict()
    return {name: value.to_local() if isinstance(value, DTensor) else value for name, value in state.items()}


def load_fsdp2(job, model):
    """PyTorch: the full state dict on rank 0, broadcast and sharded by set_model_state_dict."""
    full = load_all(job.files) if job.rank == 0 else {}
    set_model_state_dict(model, full, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    return local_shards(model)


def load_accelerate(job, model):
    """What `Accelerator.prepare` does with cpu_ram_efficient_loading."""
    fsdp2_load_full_state_dict(job.accelerator, model, load_all(job.files) if job.rank == 0 else {})
    return local_shards(model)


def load_dcp_hf(job, model):
    """torch.distributed.checkpoint on Hugging Face files: every rank reads its slices into a model with storage."""
    model.to_empty(device="cpu")
    state = model.state_dict()
    dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(path=str(job.checkpoint)))
    return local_shards(model)


def load_whole(job, model):
    """The usual way without meta: every rank has the whole model, then shards it."""
    model.to_empty(device="cpu")
    model.load_state_dict(load_all(job.files))
    return local_shards(shard_model(model, job.mesh))


def load_mapped(job, _model):
    """Every rank maps all files (load_file) and copies its rows."""
    full = load_all(job.files)
    return {name: rows_of(tensor, tensor.shape[0], job).clone() for name, tensor in full.items()}


def load_sliced(job, _model):
    """Every rank reads its rows (get_slice). These are views of the mapped file until they are copied."""
    shards = {}
    for file in job.files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                part = opened.get_slice(name)
                shards[name] = rows_of(part, part.get_shape()[0], job).clone()
    return shards


def rows_of(tensor, rows, job):
    chunk = -(-rows // job.ranks)
    return tensor[min(job.rank * chunk, rows) : min((job.rank + 1) * chunk, rows)]


# name -> (how it loads, whether the model is sharded before)
CONTENDERS = {
    "fsdp2": (load_fsdp2, True),
    "accelerate": (load_accelerate, True),
    "dcp-hf": (load_dcp_hf, True),
    "whole": (load_whole, False),
    "load-file": (load_mapped, False),
    "get-slice": (load_sliced, False),
}


# -- one load ---------------------------------------------------------------------------------------------------------


class Job:
    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks
        self.mesh = init_device_mesh("cpu", (ranks,))
        self.accelerator = PartialState(cpu=True)  # all that the function asks of one is `is_main_process`
        self.checkpoint = self.files = None

    def load(self, contender, checkpoint, when_ready=lambda: None):
        """(shards, seconds of the load, seconds of making the model, resident bytes before)"""
        load, sharded_before = CONTENDERS[contender]
        self.checkpoint, self.files = Path(checkpoint), files_of(checkpoint)
        began = time.monotonic()
        model = meta_model(tensors_of(self.files))
        if sharded_before:
            shard_model(model, self.mesh)
        made = time.monotonic() - began
        dist.barrier()
        if self.rank == 0:
            when_ready()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        base = memory("VmRSS")
        dist.barrier()
        began = time.monotonic()
        shards = load(self, model)
        dist.barrier()
        return shards, time.monotonic() - began, made, base


def memory(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


class PrivatePeak:
    """The most anonymous memory above that at its start, looked at every 2 ms; for a load that is not timed."""

    def __init__(self):
        self.base = self.peak = memory("RssAnon")
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.stopping.wait(0.002):
            self.peak = max(self.peak, memory("RssAnon"))

    def stop(self):
        self.stopping.set()
        self.thread.join()
        return self.peak - self.base


def warm_up(job, contender):
    shape = (2 * job.ranks, 4)
    names = ["embed.weight", "layers.0.up.weight", "layers.1.up.weight"]
    with tempfile.TemporaryDirectory() as folder:
        save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name in names}, f"{folder}/model.safetensors")
        job.load(contender, folder)


def digest(shard):
    dtype = next(name for name, dtype in DTYPES.items() if dtype == shard.dtype)
    return digest_text(dtype, shard.shape, shard.detach().contiguous().flatten().view(torch.uint8).numpy())


def run(contender, checkpoint, rank, ranks, meeting_file, ready, go, result_file, with_digests):
    """Called in a process of its own. Rank 0 sets `ready` right before the load and waits for `go`."""
    # accelerate wants a launcher's environment, although the process group is there already.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=ranks)
    job = Job(rank, ranks)
    warm_up(job, contender)

    def when_ready():
        ready.set()
        go.wait()

    private = PrivatePeak() if with_digests else None
    shards, seconds, made, base = job.load(contender, checkpoint, when_ready)
    result = {
        "seconds": seconds,
        "model_seconds": made,
        "base_rss_bytes": base,
        "peak_rss_bytes": memory("VmHWM"),
        "anonymous_bytes_after": memory("RssAnon"),
        "file_bytes_after": memory("RssFile"),
    }
    if with_digests:
        result["private_bytes"] = private.stop()
        result["digests"] = {name: digest(shard) for name, shard in shards.items()}
    Path(result_file).write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
