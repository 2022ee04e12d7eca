"""What the start-up hook costs every interpreter start.

Starts `python -c pass` in three virtual environments in turn, so that drift of the machine hits all alike: one whose
site-packages has the path of this checkout and nothing else, the same with the hook but `EVAL_EXT_AUTOLOAD=0`, and
with the hook on. Prints the median start, and the median and the middle half of the paired differences to the first.

    python benchmarks/startup.py [--rounds 300]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PTH = "eval_ext_autoload.pth"


def make_environment(folder: Path, hook: bool) -> Path:
    """Make an empty environment that sees this checkout, with or without the hook; return its interpreter."""
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    (site / "_eval_ext.pth").write_text(f"{ROOT}\n")
    if hook:
        shutil.copy(ROOT / PTH, site / PTH)
    return python


def start(python: Path, env: dict[str, str]) -> float:
    """Return the wall time, in milliseconds, of one interpreter start and exit."""
    begin = time.perf_counter()
    subprocess.run([python, "-c", "pass"], env=env, check=True)
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds

    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EVAL_EXT"))}
    with tempfile.TemporaryDirectory() as folder:
        bare = make_environment(Path(folder) / "bare", hook=False)
        hooked = make_environment(Path(folder) / "hooked", hook=True)
        arms = {
            "no hook": (bare, env),
            "hook, EVAL_EXT_AUTOLOAD=0": (hooked, env | {"EVAL_EXT_AUTOLOAD": "0"}),
            "hook": (hooked, env),
        }
        for arm in arms.values():
            for _ in range(3):  # compile, and warm the file cache
                start(*arm)
        times = {name: [] for name in arms}
        for i in range(rounds):
            order = list(arms) if i % 2 else list(arms)[::-1]
            for name in order:
                times[name].append(start(*arms[name]))

    base = times["no hook"]
    print(f"Python {sys.version.split()[0]}, {rounds} rounds, milliseconds per start\n")
    print("| arm | median | difference | middle half |\n|---|---|---|---|")
    for name, measured in times.items():
        low, middle, high = statistics.quantiles([a - b for a, b in zip(measured, base)], n=4)
        print(f"| {name} | {statistics.median(measured):.2f} | {middle:+.2f} | {low:+.2f} to {high:+.2f} |")


if __name__ == "__main__":
    main()
