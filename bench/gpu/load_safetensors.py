"""usage: load_safetensors.py LOADER CHECKPOINT
Loads a file, or the files of a folder, onto the GPU once for each line of its input, and prints the seconds of each load. LOADER is
safetensors (its torch.load_file) or fastsafetensors (without GPUDirect Storage: the files are in the page cache)."""
import contextlib
import glob
import os
import sys
import time

import torch


@contextlib.contextmanager
def loaded_by_safetensors(files):
    from safetensors.torch import load_file

    yield [load_file(file, device="cuda") for file in files]


@contextlib.contextmanager
def loaded_by_fastsafetensors(files):
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader = SafeTensorsFileLoader(SingleGroup(), "cuda:0", nogds=True)
    loader.add_filenames({0: files})
    buffers = loader.copy_files_to_device()
    yield [buffers.get_tensor(name) for name in loader.get_keys()]
    buffers.close()
    loader.close()


loaders = {"safetensors": loaded_by_safetensors, "fastsafetensors": loaded_by_fastsafetensors}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in loaders:
        sys.exit(__doc__)
    loaded = loaders[sys.argv[1]]
    path = sys.argv[2]
    files = sorted(glob.glob(os.path.join(path, "*.safetensors"))) if os.path.isdir(path) else [path]
    torch.zeros(1, device="cuda")  # the context is not timed
    for _ in sys.stdin:
        begin = time.monotonic()
        with loaded(files) as tensors:
            torch.cuda.synchronize()
            print(time.monotonic() - begin, flush=True)
            del tensors
        torch.cuda.empty_cache()  # the next load allocates anew, as the others do


main()
