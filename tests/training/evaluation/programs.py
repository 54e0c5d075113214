"""A program that finds its videos and writes its results as `vbench` does, without the networks."""

import stat
import sys
from pathlib import Path

PROGRAM = """#!{python}
import argparse, json, os, pathlib, shutil, subprocess, sys, time

command, *words = sys.argv[1:]
parser = argparse.ArgumentParser()
for name in ("videos_path", "output_path", "result_path", "full_json_dir", "dimension"):
    parser.add_argument("--" + name)
asked = parser.parse_args(words)
names = os.listdir(asked.videos_path)
if command == "static_filter":
    still = pathlib.Path(asked.result_path, "filtered_videos")
    still.mkdir(parents=True)
    last = sorted(names)[-1]
    shutil.copy(pathlib.Path(asked.videos_path, last), still / (last.rpartition("-")[0] + "-0.mp4"))
    sys.exit()
odd = pathlib.Path("odd").exists()
if odd and asked.dimension == "scene":
    print("no kernel image is available")
    sys.exit()
if odd and asked.dimension == "color":
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
ending = pathlib.Path(names[0]).suffix
for entry in json.loads(pathlib.Path(asked.full_json_dir).read_text()):
    found = [n for i in range(5) if (n := entry["prompt_en"] + "-" + str(i) + ending) in names]
result = {{asked.dimension: [len(found) / 5, [{{"video_path": n, "video_results": 1.0}} for n in found]]}}
pathlib.Path(asked.output_path, f"results_{{time.time_ns()}}_eval_results.json").write_text(json.dumps(result))
"""


def fake_vbench(path: Path) -> Path:
    """In a folder with a file `odd` it fails at `scene` and never ends with `color`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
