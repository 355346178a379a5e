"""Loads the same checkpoints with fsdpinit, with its Python peers and as fast as memory allows. Called by run.sh.

First every contender loads once and its shards are compared, byte for byte, with what `torch.chunk` would make of the
files; then come the timed rounds, in each of which every contender has its turn with processes of its own. Writes to
the folder --out: table.md (as printed), compare.json (every sample), MODEL.dat (what the chart draws).
"""

import argparse
import functools
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Callable

from checkpoint import file_digests, files_of, shard_digests, tensors_of

GIB = 2**30
PYTHON_BYTES = GIB // 2  # what one process with PyTorch has before it loads anything, generously
SAMPLE_SECONDS = 600  # a load that takes longer has failed


@dataclass
class Contender:
    key: str
    title: str
    kind: str  # floor, python, mpi, threads
    arguments: list[str]  # of the program that is run
    readers: str  # the ranks that read the files
    memory: Callable[[int, int], int]  # for the load at most, of model bytes and ranks

    @property
    def is_floor(self):
        return self.kind == "floor"

    def start_bytes(self, ranks):
        """What its processes have before they load anything."""
        return ranks * PYTHON_BYTES if self.kind == "python" else 0


def python_peer(key, title, readers, model_copies):
    return Contender(key, title, "python", [key], readers, lambda w, n: model_copies(n) * w)


def ours(key, title, kind, policy, *arguments):
    everywhere = policy == "every-rank-loads"
    memory = (lambda w, n: (n + 1) * w) if everywhere else (lambda w, n: w + n * GIB // 16)
    readers = "every rank" if everywhere or "own-read" in arguments else "rank 0"
    return Contender(key, title, kind, ["--policy", policy, *arguments], readers, memory)


CONTENDERS = [
    Contender("floor-one", "floor: pread, one process", "floor", ["read", "1"], "one", lambda w, n: w),
    Contender("floor-each", "floor: pread, a part each", "floor", ["read", "RANKS"], "every rank", lambda w, n: w),
    Contender("floor-copy", "floor: memcpy, one process", "floor", ["copy", "1"], "none", lambda w, n: 2 * w),
    python_peer("fsdp2", "PyTorch set_model_state_dict", "rank 0", lambda n: 2),
    python_peer("accelerate", "accelerate fsdp2_load_full_state_dict", "rank 0", lambda n: 2),
    python_peer("dcp-hf", "PyTorch dcp.load, HuggingFaceStorageReader", "every rank", lambda n: 1),
    python_peer("whole", "PyTorch, whole model, then fully_shard", "every rank", lambda n: n),
    python_peer("load-file", "safetensors load_file, own rows copied", "every rank", lambda n: 1),
    python_peer("get-slice", "safetensors get_slice, own rows copied", "every rank", lambda n: 1),
    ours("ours-scatter", "fsdpinit scatter, MPI", "mpi", "native-sharding", "--transport", "scatter"),
    ours("ours-own-read", "fsdpinit own-read, MPI", "mpi", "native-sharding", "--transport", "own-read"),
    ours("ours-broadcast", "fsdpinit broadcast, MPI", "mpi", "native-sharding", "--transport", "broadcast"),
    ours("ours-every-rank", "fsdpinit every-rank-loads, MPI", "mpi", "every-rank-loads"),
    ours("threads-scatter", "fsdpinit scatter, threads", "threads", "native-sharding", "--transport", "scatter"),
    ours("threads-every-rank", "fsdpinit every-rank-loads, threads", "threads", "every-rank-loads"),
]
FLOOR, PEER = "floor-one", "fsdp2"  # what the ratios are to

NOTES = """\
Seconds: from a barrier to the slowest rank's end, from unopened files in the page cache to shards in memory of their
own; starting processes, imports, the process group and MPI_Init are not in it. PyTorch's and accelerate's models are
on meta with fully_shard applied before the clock starts, and a tiny model was loaded before; PyTorch's "whole model"
is sharded within the time, as it has to be; fsdpinit opens, plans, makes its module and agrees on errors within the
time. Memory: the most resident above what the process had before; mapped files count, once per rank, although the
kernel could drop them; "private" is all ranks without them, as sampled in the load whose shards were compared. Ratios
are medians of the rounds' ratios. OMP_NUM_THREADS=1; gloo over loopback TCP."""


# -- one sample -------------------------------------------------------------------------------------------------------


class Failed(Exception):
    pass


@dataclass
class Setting:
    tool: str
    floor: str
    start_together: Path  # what MPI processes preload to wait for each other after MPI_Init
    ranks: int
    folder: Path  # for what a sample leaves
    model_bytes: int = 0
    most_load_bytes: int = 0  # that any of the contenders needs


def python_rank(log, arguments):
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    from contenders import run

    run(*arguments)


class HeldMemory:
    """Memory for a load, held until right before it: a virtual machine's host takes back what has been free for some
    seconds (as long as Python takes to start), and to touch that again takes longer than any load. What only other
    contenders need is held until after the load. Files leave the page cache in the same way: they are read once more."""

    def __init__(self, contender, checkpoint, how):
        self.files = files_of(checkpoint)
        most = available_bytes() - contender.start_bytes(how.ranks) - how.model_bytes - GIB
        every = min(how.most_load_bytes, max(most, 0))
        needed = min(contender.memory(how.model_bytes, how.ranks), every)
        self.processes = [self.hold(how, needed), self.hold(how, every - needed)]
        for process in self.processes:
            process.stdout.readline()

    @staticmethod
    def hold(how, size):
        command = [how.floor, "hold", str(max(size, 1))]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def release(self):
        buffer = bytearray(4 << 20)
        for path in self.files:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        if self.processes[0].poll() is None:
            self.processes[0].communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.communicate()


def run_python(contender, checkpoint, how, held, with_digests):
    results = [how.folder / f"rank-{rank}.json" for rank in range(how.ranks)]
    logs = [how.folder / f"rank-{rank}.log" for rank in range(how.ranks)]
    meeting = str(how.folder / "meeting")
    ready, go = SPAWNING.Event(), SPAWNING.Event()

    def process_of(rank):
        arguments = (contender.key, str(checkpoint), rank, how.ranks, meeting, ready, go, results[rank], with_digests)
        return SPAWNING.Process(target=python_rank, args=(logs[rank], arguments))

    processes = [process_of(rank) for rank in range(how.ranks)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + SAMPLE_SECONDS
    while any(process.is_alive() for process in processes):
        if not go.is_set() and ready.wait(0.01):
            held.release()
            go.set()
        if time.monotonic() > deadline or any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
        processes[0].join(0.01)
    if any(process.exitcode for process in processes):
        last_lines = "\n".join("\n".join(log.read_text().splitlines()[-5:]) for log in logs if log.exists())
        raise Failed(f"{contender.key}: exit codes {[process.exitcode for process in processes]}\n{last_lines}")
    ranks = [json.loads(result.read_text()) for result in results]
    digests = [rank.pop("digests", None) for rank in ranks]
    return {"seconds": max(rank["seconds"] for rank in ranks), "ranks": ranks}, digests


def run_program(command, contender, environment=None, started=lambda _: None):
    """Its output. Whatever it started ends with it. `started(process)` is called once it runs."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    try:
        started(process)
        output, errors = process.communicate(timeout=SAMPLE_SECONDS)
    except BaseException as failure:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(failure, subprocess.TimeoutExpired):
            raise Failed(f"{contender.key}: took longer than {SAMPLE_SECONDS} s") from failure
        raise
    if process.returncode != 0:
        raise Failed(f"{contender.key}: exit code {process.returncode}\n{errors[-2000:]}")
    return output


def run_floor(contender, checkpoint, how, held):
    held.release()
    arguments = [str(how.ranks) if argument == "RANKS" else argument for argument in contender.arguments]
    return json.loads(run_program([how.floor, *arguments, *map(str, files_of(checkpoint))], contender))


def mpi_environment():
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **(as_root if os.geteuid() == 0 else {})}


@functools.cache
def mpirun_version():
    """None where there is no mpirun."""
    if not shutil.which("mpirun"):
        return None
    output = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False).stdout
    return (output.splitlines() or [""])[0]


def run_tool(contender, checkpoint, how, held, with_digests):
    report, dump = how.folder / "report.json", how.folder / "dump"
    command = [how.tool, "load", str(checkpoint), "--shards", str(how.ranks), "--report", str(report)]
    command += contender.arguments
    if with_digests:
        command += ["--dump", str(dump)]

    def release_once_started(process):
        deadline = time.monotonic() + SAMPLE_SECONDS
        while len(list(how.folder.glob("ready-*"))) < how.ranks and process.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(command, SAMPLE_SECONDS)
            time.sleep(0.01)
        held.release()
        (how.folder / "go").touch()

    if contender.kind == "mpi":
        oversubscribe = ["--oversubscribe"] if "Open MPI" in mpirun_version() else []
        start = ["env", f"START_TOGETHER={how.folder}", f"LD_PRELOAD={how.start_together}"]
        command = ["mpirun", "-n", str(how.ranks), *oversubscribe, *start, *command]
        run_program(command, contender, mpi_environment(), release_once_started)
    else:
        held.release()
        run_program(command, contender)
    result = json.loads(report.read_text())
    digests = [file_digests(file) for file in files_of(dump)] if with_digests else None
    sample = {"seconds": result["seconds"], "ranks": [], "process_peak_rss_bytes": result["process_peak_rss_bytes"]}
    if contender.kind == "mpi":
        sample["ranks"] = [{key: rank[key] for key in ("base_rss_bytes", "peak_rss_bytes")} for rank in result["ranks"]]
    return sample, digests


def run_once(contender, checkpoint, how, with_digests=False):
    """(sample, for each rank name -> digest of its shard)"""
    shutil.rmtree(how.folder, ignore_errors=True)
    how.folder.mkdir(parents=True)
    load_average = os.getloadavg()[0]
    try:
        with HeldMemory(contender, checkpoint, how) as held:
            if contender.is_floor:
                sample, digests = run_floor(contender, checkpoint, how, held), None
            elif contender.kind == "python":
                sample, digests = run_python(contender, checkpoint, how, held, with_digests)
            else:
                sample, digests = run_tool(contender, checkpoint, how, held, with_digests)
    finally:
        shutil.rmtree(how.folder, ignore_errors=True)
    sample["load_average_before"] = load_average
    return sample, digests


# -- what can run -----------------------------------------------------------------------------------------------------


def available_bytes():
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(facts["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's
    if limit.exists() and limit.read_text().strip().isdigit():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, int(limit.read_text()) - used)
    return available


def reason_against(contender, how):
    """Why it cannot take part; None if it can."""
    if contender.kind == "mpi":
        asked = [how.tool, "load", "/nonexistent", "--shards", "1", "--launcher", "mpi"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False, env=mpi_environment()).stderr
        if "without MPI" in answer or "--launcher" in answer:  # it says so, or does not know the option
            return "the tool was built without MPI"
        if mpirun_version() is None:
            return "there is no mpirun"
    needed = contender.memory(how.model_bytes, how.ranks) + contender.start_bytes(how.ranks)
    needed += how.model_bytes  # the files are to stay in the page cache
    if needed > available_bytes():
        free = available_bytes() / GIB
        return f"needs about {needed / GIB:.1f} GiB with the files in the page cache, {free:.1f} are free"
    return None


def check_shards(contender, found, expected):
    """Prints what differs. Whether nothing does."""
    wrong = 0
    for rank, shards in enumerate(expected):
        for name in sorted(shards.keys() | found[rank].keys()):
            if found[rank].get(name) != shards.get(name):
                wrong += 1
                if wrong <= 10:
                    print(f"DIFFERS: {contender.key}, rank {rank}, {name}:", file=sys.stderr)
                    print(f"  has {found[rank].get(name)}, expected {shards.get(name)}", file=sys.stderr)
    if wrong > 10:
        print(f"DIFFERS: {contender.key}: {wrong} shards in all", file=sys.stderr)
    return wrong == 0


# -- what came out ----------------------------------------------------------------------------------------------------


def memory_of(samples):
    """Medians in bytes: per rank before the load; above that of rank 0, of the other rank with most, of all ranks."""
    if not samples[0]["ranks"]:
        return None, None, None, median(sample["process_peak_rss_bytes"] for sample in samples)
    above = [[rank["peak_rss_bytes"] - rank["base_rss_bytes"] for rank in sample["ranks"]] for sample in samples]
    base = median(max(rank["base_rss_bytes"] for rank in sample["ranks"]) for sample in samples)
    others = median(max(ranks[1:]) for ranks in above) if len(above[0]) > 1 else None
    return base, median(ranks[0] for ranks in above), others, median(sum(ranks) for ranks in above)


def ratio(samples, to):
    if to is None:
        return None
    return median(one["seconds"] / other["seconds"] for one, other in zip(samples, to))


def rows_of(model):
    samples = model["samples"]
    for contender in CONTENDERS:
        if mine := samples.get(contender.key):
            seconds = [sample["seconds"] for sample in mine]
            yield {
                "contender": contender,
                "seconds": (median(seconds), min(seconds), max(seconds)),
                "x_floor": ratio(mine, samples.get(FLOOR)),
                "x_peer": ratio(mine, samples.get(PEER)),
                "memory": memory_of(mine),
            }


def text_of(value, form):
    return "" if value is None else format(value, form)


def gib_of(value):
    return text_of(None if value is None else value / GIB, ".2f")


def table_of(model, ranks, rounds):
    head = ["", "reads", "median s", "min", "max", "x floor", "x FSDP2", "rank 0", "others", "all", "private", "before"]
    lines = []
    for row in rows_of(model):
        contender = row["contender"]
        base, first, others, every = row["memory"]
        private = model["private_bytes"].get(contender.key, every)  # the other programs map no file
        lines.append(
            [contender.title, contender.readers]
            + [format(value, ".3f") for value in row["seconds"]]
            + [text_of(row["x_floor"], ".2f"), "" if contender.is_floor else text_of(row["x_peer"], ".3f")]
            + [gib_of(first), gib_of(others), gib_of(every), gib_of(private), gib_of(base)]
        )
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

    def line_of(cells):
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2])]
        return "| " + " | ".join(left + [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:])]) + " |"

    rule = ["-" * widths[0], "-" * widths[1]] + ["-" * (width - 1) + ":" for width in widths[2:]]
    title = f"{model['name']}, {model['bytes'] / GIB:.2f} GiB, {ranks} ranks, {rounds} round{'s'[: rounds > 1]}"
    title += ", warm page cache; memory in GiB above what was there before"
    title_of = {each.key: each.title for each in CONTENDERS}
    left_out = [f"Left out: {title_of[key]}: {why}" for key, why in model["left_out"].items()]
    return "\n".join([title, "", line_of(head), line_of(rule), *map(line_of, lines), *left_out])


def chart_data(model):
    """Title, kind, median, least and most seconds, GiB above what was there: of rank 0, of another rank, of all."""
    lines = []
    for row in rows_of(model):
        _, first, others, every = row["memory"]
        memory = [float("nan") if value is None else value / GIB for value in (first, others, every)]
        numbers = " ".join(f"{value:.4f}" for value in [*row["seconds"], *memory])
        lines.append(f'"{row["contender"].title}" {row["contender"].kind} {numbers}')
    return "\n".join(lines) + "\n"


def machine_facts():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next(int(line.split()[1]) * 1024 for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "transparent_hugepage": pages.read_text().strip() if pages.exists() else None,
        "load_average_at_start": os.getloadavg(),
    }


def versions(how):
    packages = {name: importlib.metadata.version(name) for name in ("torch", "accelerate", "safetensors")}
    tool = subprocess.run([how.tool, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return {"fsdpinit": tool, "python": platform.python_version(), **packages, "mpi": mpirun_version()}


# -- all of it --------------------------------------------------------------------------------------------------------


def compare(name, checkpoint, contenders, how, rounds, say):
    tensors = tensors_of(files_of(checkpoint))
    model = {"name": name, "bytes": sum(tensor.bytes for tensor in tensors.values()), "tensors": len(tensors)}
    how.model_bytes = model["bytes"]
    model |= {"left_out": {}, "private_bytes": {}, "samples": {}}
    taking_part = []
    for contender in contenders:
        if why := reason_against(contender, how):
            model["left_out"][contender.key] = why
            print(f"{name}: {contender.title} is left out: {why}", flush=True)
        else:
            taking_part.append(contender)

    how.most_load_bytes = max((contender.memory(how.model_bytes, how.ranks) for contender in taking_part), default=0)
    say(f"{name}: reading the files, which brings them into the page cache")
    expected = shard_digests(tensors, how.ranks)
    same = True
    for contender in taking_part:
        say(f"{name}: first load of {contender.key}")
        sample, digests = run_once(contender, checkpoint, how, with_digests=not contender.is_floor)
        if contender.kind == "python":
            model["private_bytes"][contender.key] = sum(rank["private_bytes"] for rank in sample["ranks"])
        if digests is not None:
            same = check_shards(contender, digests, expected) and same
    if not same:
        raise Failed(f"{name}: shards differ")
    loaders = sum(not each.is_floor for each in taking_part)
    print(f"{name}: {loaders} contenders have the same shards on every rank, and the right ones", flush=True)

    model["samples"] = {contender.key: [] for contender in taking_part}
    for number in range(1, rounds + 1):
        for contender in taking_part:
            say(f"{name}: round {number} of {rounds}: {contender.key}")
            sample, _ = run_once(contender, checkpoint, how)
            model["samples"][contender.key].append(sample)
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", required=True)
    parser.add_argument("--floor", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contenders", default="", help="some of " + ",".join(each.key for each in CONTENDERS))
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    options = parser.parse_args()
    wanted = [key for key in options.contenders.split(",") if key] or [each.key for each in CONTENDERS]
    known = [each.key for each in CONTENDERS]
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no contenders: {', '.join(unknown)}; use some of {', '.join(known)}")
    contenders = [each for each in CONTENDERS if each.key in wanted or each.is_floor]

    def say(what):
        if sys.stderr.isatty():
            print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)

    start_together = Path(options.floor).resolve().parent / "libfsdpinit_start_together.so"
    how = Setting(options.tool, options.floor, start_together, options.ranks, options.out.resolve() / "sample")
    result = {"format": "fsdpinit.compare", "ranks": options.ranks, "rounds": options.rounds}
    result |= {"machine": machine_facts(), "versions": versions(how), "models": []}
    used, machine = result["versions"], result["machine"]
    texts = [
        ", ".join(f"{key} {value}" for key, value in used.items() if value)
        + f"; {machine['cores']} cores ({machine['cpu']}), {machine['memory_bytes'] / GIB:.0f} GiB"
    ]
    print(texts[0], flush=True)
    try:
        for each in options.model:
            name, _, folder = each.rpartition("=")
            model = compare(name, Path(folder), contenders, how, options.rounds, say)
            result["models"].append(model)
            (options.out / f"{name}.dat").write_text(chart_data(model))
            texts.append(table_of(model, options.ranks, options.rounds))
            say("")
            print("\n" + texts[-1], flush=True)
    except Failed as failure:
        say("")
        print(f"compare: {failure}", file=sys.stderr)
        return 1
    texts.append(NOTES)
    print("\n" + NOTES)
    (options.out / "table.md").write_text("\n\n".join(texts) + "\n")
    (options.out / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


# Python's own way to start processes from one that has the imports done: fresh ones for each load, without the wait.
SPAWNING = multiprocessing.get_context("forkserver")

if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", PYTHONPATH=str(Path(__file__).parent))
    SPAWNING.set_forkserver_preload(["contenders"])
    sys.exit(main())
