"""The trained weights that come with the package, so that the demo's figures are the same on every machine.

They lie in folders by the hash of what they were trained from: of a recipe or a dataset that has changed since there are none,
and it is trained on first use. `python -m gradsim_assets.demo.trained` trains those of today anew and puts them here.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parent / "weights"

_WEIGHTS = "*.safetensors"


def weights_of(build: str) -> dict[str, Path]:
    """The files of weights of a build by their names in its folder; none where they do not come with the package."""
    folder = _FOLDER / build
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob(_WEIGHTS))}


def put_weights(weights: Mapping[str, Path], folder: Path) -> None:
    """Puts trained weights in the place of those that lie in a folder."""
    for name, path in weights.items():
        shutil.copyfile(path, folder / name)


def main() -> None:
    """Trains the demo's models as their recipes say, and keeps their weights in the place of those that are here."""
    from tempfile import TemporaryDirectory

    from gradsim_assets.demo.adapter import build_demo_adapter
    from gradsim_assets.demo.model import build_demo_model

    shutil.rmtree(_FOLDER, ignore_errors=True)
    with TemporaryDirectory() as root:
        for folder in (build_demo_model(Path(root)), build_demo_adapter(Path(root))):
            for path in sorted(folder.rglob(_WEIGHTS)):
                kept = _FOLDER / folder.name / path.relative_to(folder)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, kept)
                print(kept, flush=True)


if __name__ == "__main__":
    main()
