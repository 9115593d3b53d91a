"""`python -m gradsim_assets.demo.train`: the weights that come with the package, trained anew (see `demo.trained`)."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from gradsim_assets.demo.adapter import build_demo_adapter
from gradsim_assets.demo.model import build_demo_model
from gradsim_assets.demo.trained import FOLDER, WEIGHTS


def main() -> None:
    """Trains the demo's models as their recipes say, and keeps their weights in the place of those that are here."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with TemporaryDirectory() as root:
        for folder in (build_demo_model(Path(root)), build_demo_adapter(Path(root))):
            for path in sorted(folder.rglob(WEIGHTS)):
                kept = FOLDER / folder.name / path.relative_to(folder)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, kept)
                print(kept, flush=True)


if __name__ == "__main__":
    main()
