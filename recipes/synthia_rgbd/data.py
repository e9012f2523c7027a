"""Road scenes of SYNTHIA, of a folder or of the hub, or rendered ones: a picture, depth, and a class for each pixel.

To train on something else, add a reader to `load_data`: it returns class names and, by condition, what opens scenes.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ltaug.commandline import PositiveInt
from ltaug.errors import UserError
from ltaug.loaders.folders import source_name
from ltaug.vision.scenes import SCENE_CLASSES
from ltaug.vision.segmentation import (
    SceneData,
    SceneSettings,
    read_scene_folder,
    read_scene_table,
    read_synthia,
    rendered_scenes,
)


@dataclass
class DataSettings(SceneSettings):
    """What can be said of the data."""

    dataset: Literal["synthia", "folder", "hub", "rendered"] = "synthia"
    """synthia: its sequences, in `data_dir`; folder, hub: any with pictures, depths and labels; rendered needs no
    files."""
    train_scenes: PositiveInt = 256
    """rendered: scenes to train on."""
    held_out_scenes: PositiveInt = 64
    """rendered: scenes to tune corrections on."""
    test_scenes: PositiveInt = 64
    """rendered: scenes to test on, in each condition."""

    @property
    def data_name(self) -> str:
        """Name of the data in run folders."""
        own = self.dataset in ("synthia", "rendered")
        return self.dataset if own else source_name(self.data_dir, self.hub_id, self.dataset)


def load_data(cfg: Any) -> SceneData:
    """Find the scenes of the settings' data set, by condition."""
    if cfg.dataset == "rendered":
        sizes = cfg.train_scenes, cfg.held_out_scenes, cfg.test_scenes
        files = rendered_scenes(*sizes, seed=cfg.data_seed, height=cfg.height, width=cfg.width)
        return SceneData(SCENE_CLASSES, files, cfg)
    if cfg.dataset == "hub":
        return SceneData(*read_scene_table(cfg.hub_id, cfg.data_dir, cfg), cfg)
    if cfg.data_dir is None:
        raise UserError(f"`dataset` {cfg.dataset} needs `data_dir`, the folder of its scenes.")
    read = read_synthia if cfg.dataset == "synthia" else read_scene_folder
    return SceneData(*read(cfg.data_dir, cfg), cfg)
