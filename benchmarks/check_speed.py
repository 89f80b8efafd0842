"""How long it takes to check, and to read, an annotation file of the size of COCO's, made by repeating a smaller one.

    python benchmarks/check_speed.py coco/annotations/instances_val2017.json

The copies of images and annotations get ids of their own. Image files are not looked at, and need not be there: reading
is timed with empty files of the right names in a temporary folder (`--read`). `--output` keeps the file that was made.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from coco_sized import ANNOTATIONS, IMAGES, repeated
from machine import describe

from maskrcnn.data import read_coco
from maskrcnn.data.checking import check_coco, text_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="a file in COCO format")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"in the file that is made ({IMAGES})")
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS, help=f"at most ({ANNOTATIONS})")
    parser.add_argument("--output", type=Path, help="where to keep the file (a temporary folder)")
    parser.add_argument("--read", action="store_true", help="also time the reader")
    args = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        path = args.output or Path(folder, "repeated.json")
        content = repeated(json.loads(args.json.read_text()), args.images, args.annotations, rename=True)
        path.write_text(json.dumps(content))
        names = [image["file_name"] for image in content["images"]]
        del content
        start = time.perf_counter()
        json.loads(path.read_bytes())
        print(f"{path.stat().st_size / 1e6:.0f} MB; parsing alone {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        report = check_coco(path)
        seconds = time.perf_counter() - start
        print(text_of(report))
        print(f"checked in {seconds:.1f} s, with parsing")
        del report
        if args.read:
            root = Path(folder, "images")
            for name in names:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
            start = time.perf_counter()
            data = read_coco(path, root)
            print(f"read in {time.perf_counter() - start:.1f} s, with checking: {len(data)} images")
    print(f"highest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
