"""Fuzz the readers of files: each file must be read correctly, or raise an error.

Atheris (libFuzzer for Python) writes files and records which lines of fnn, Python and
NumPy they reach. It continues with variants of files that reach new lines:

    idx     fnn.data.read_idx, of plain and gzip-compressed files
    cifar   fnn.data.read_cifar_batch
    tar     fnn.data.cifar10 of an archive, plain and gzip-compressed
    npz     fnn.load: whole files, entries in an intact archive, and its table of dtypes

A reader must raise a documented error, or return exactly the bytes that the file holds.
Each reader has its own process, and a line in scripts/soak/results/readers.log with the
numbers of files read and refused. The script ends with status 1 if one fails.
"""

import argparse
import collections
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parents[1])]

#: The readers of tests/odd_files.py, in the order in which they are fuzzed.
READERS = ("idx", "cifar", "tar", "npz")
FNN_MODULES = [
    "fnn.data.idx",
    "fnn.data.cifar",
    "fnn.training.store.npz",
    "fnn.named_leaves",
]
OTHER_MODULES = [
    "numpy.lib._format_impl",
    "numpy.lib.format",
    "zipfile",
    "gzip",
    "tarfile",
]
MAX_MEGABYTES = 3000  #: the most memory that a reader may use


def fuzz(reader: str, folder: Path, seconds: int, seed: int) -> None:
    """Fuzz one reader in this process; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=FNN_MODULES + OTHER_MODULES):
        for module in OTHER_MODULES:  # already imported, without instruments
            importlib.reload(importlib.import_module(module))
        from odd_files import READERS, is_refusal, seeds
    counts: collections.Counter[str] = collections.Counter()
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds(reader, folder)):
        (corpus / str(number)).write_bytes(data)
    files = folder / "files"
    files.mkdir()

    def read_one(data: bytes) -> None:
        try:
            READERS[reader](data, files)
            counts["read"] += 1
        except Exception as error:
            if not is_refusal(error):
                raise
            counts["refused"] += 1
        if counts.total() % 100 == 0:
            (folder / "counts.json").write_text(json.dumps(counts))

    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-rss_limit_mb={MAX_MEGABYTES}",
        "-timeout=30",
        "-max_len=40000",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], read_one)
    atheris.Fuzz()


def fuzz_in_process(reader: str, seconds: int, seed: int) -> tuple[bool, str]:
    """Fuzz one reader in a process; return whether it passed, and a line of text."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--reader", reader, "--folder", name, "--seconds", str(seconds)]
        child = [sys.executable, __file__, *options, "--seed", str(seed)]
        started = time.time()
        run = subprocess.run(
            child, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=name
        )
        output = run.stdout.decode(errors="replace")
        path = folder / "counts.json"
        counts = json.loads(path.read_text()) if path.exists() else {}
        reached = re.findall(r"cov: (\d+)", output)
        line = (
            f"{reader:6} {counts.get('read', 0):7,} files read, "
            f"{counts.get('refused', 0):9,} refused, {reached[-1] if reached else 0} "
            f"code edges reached, {time.time() - started:.0f} seconds"
        )
        if run.returncode == 0:
            return True, line
        found = [path.read_bytes() for path in folder.glob("*-*") if path.is_file()]
        cause = "\n".join(output.splitlines()[-40:])
        return False, f"{line}\nFAILED with {found[:1]!r}\n{cause}"


def main() -> int:
    """Run the command line."""
    from fnn.letters import make_stdout_printable

    make_stdout_printable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="of all together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", choices=READERS, help="only this one, in-process")
    parser.add_argument("--folder", type=Path, help="an empty one, for --reader")
    parser.add_argument("--log", type=Path, default=HERE / "results" / "readers.log")
    options = parser.parse_args()
    if options.reader and options.folder:
        fuzz(options.reader, options.folder, options.seconds, options.seed)
    chosen = [options.reader] if options.reader else list(READERS)
    passed = []
    with options.log.open("w", encoding="utf-8") as log:
        for reader in chosen:
            seconds = options.seconds // len(chosen)
            ok, line = fuzz_in_process(reader, seconds, options.seed)
            passed.append(ok)
            print(line, flush=True)
            print(line, file=log, flush=True)
        verdict = "nothing found" if all(passed) else "FAILED"
        summary = f"{len(chosen)} readers, {options.seconds} seconds: {verdict}"
        print(summary)
        print(summary, file=log)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
