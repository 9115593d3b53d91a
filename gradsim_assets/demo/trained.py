"""The trained weights that come with the package, so that the demo's figures are the same on every machine.

They lie in folders by the hash of what they were trained from: of a recipe or a dataset that has changed since there are none,
and it is trained on first use. `demo.train` puts those of today here.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"

WEIGHTS = "*.safetensors"


def weights_of(build: str) -> dict[str, Path]:
    """The files of weights of a build by their names in its folder; none where they do not come with the package."""
    folder = FOLDER / build
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob(WEIGHTS))}


def put_weights(weights: Mapping[str, Path], folder: Path) -> None:
    """Puts trained weights in the place of those that lie in a folder."""
    for name, path in weights.items():
        shutil.copyfile(path, folder / name)
