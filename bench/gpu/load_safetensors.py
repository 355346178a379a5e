"""usage: load_safetensors.py CHECKPOINT
Loads a file, or the files of a folder, onto the GPU with safetensors.torch.load_file, once for each line of its input, and prints
the seconds of each load."""
import glob
import os
import sys
import time

import torch
from safetensors.torch import load_file


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = sys.argv[1]
    files = sorted(glob.glob(os.path.join(path, "*.safetensors"))) if os.path.isdir(path) else [path]
    torch.zeros(1, device="cuda")  # the context is not timed
    for _ in sys.stdin:
        begin = time.monotonic()
        tensors = [load_file(file, device="cuda") for file in files]
        torch.cuda.synchronize()
        print(time.monotonic() - begin, flush=True)
        del tensors
        torch.cuda.empty_cache()  # the next load allocates anew, as the others do


main()
