"""Rendered scenes: what they show agrees in colour, depth and labels, and weather changes what it should."""

from __future__ import annotations

import numpy as np
import pytest

from ltaug.vision.scenes import CONDITIONS, FAR, SCENE_CLASSES, VOID, Scenes, corrupt_scenes, render_scenes

ROAD, SKY = SCENE_CLASSES.index("road"), SCENE_CLASSES.index("sky")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return render_scenes(range(100))


def test_a_scene_does_not_depend_on_the_others(scenes: Scenes) -> None:
    alone = render_scenes([7, 3])
    for mine, all_of_them in ((alone.rgb, scenes.rgb), (alone.depth, scenes.depth), (alone.labels, scenes.labels)):
        assert np.array_equal(mine, all_of_them[[7, 3]])
    assert not np.array_equal(render_scenes([7], seed=1).rgb, alone.rgb[:1])


def test_classes_are_as_uneven_as_those_of_streets(scenes: Scenes) -> None:
    counts = np.bincount(scenes.labels.ravel(), minlength=256)
    assert len(SCENE_CLASSES) == 13
    assert counts[:13].min() > 0
    assert counts[:13].max() / counts[:13].min() >= 100
    assert counts[13:VOID].sum() == 0
    assert 0 < counts[VOID] < 0.1 * counts.sum()


def test_depth_is_that_of_the_picture(scenes: Scenes) -> None:
    assert np.array_equal(scenes.depth == FAR, scenes.labels == SKY)
    for depth, labels in zip(scenes.depth[:20].astype(float), scenes.labels[:20], strict=True):
        # 1 / depth of a plane is linear in the rows, up to the sensor's noise of 1 %.
        rows, columns = np.nonzero((labels == ROAD) & (depth < 3000))
        inverse = 1 / depth[rows, columns]
        slope, start = np.polyfit(rows, inverse, 1)
        assert slope > 0
        assert np.abs((start + slope * rows) / inverse - 1).mean() < 0.02


def test_conditions_change_one_sensor_and_no_label(scenes: Scenes) -> None:
    few = Scenes(scenes.rgb[:4], scenes.depth[:4], scenes.labels[:4])
    before = few.rgb.copy(), few.depth.copy()
    for name in CONDITIONS:
        found = corrupt_scenes(few, name)
        assert np.array_equal(found.labels, few.labels)
        assert np.array_equal(found.rgb, few.rgb) == name.startswith("depth")
        assert np.array_equal(found.depth, few.depth) == (not name.startswith("depth"))
        again = corrupt_scenes(few, name)
        assert np.array_equal(found.rgb, again.rgb)
        assert np.array_equal(found.depth, again.depth)
    assert np.array_equal(few.rgb, before[0])
    assert np.array_equal(few.depth, before[1])
    with pytest.raises(ValueError, match="is 'frog', did you mean 'fog'"):
        corrupt_scenes(few, "frog")


def test_fog_thickens_with_the_distance(scenes: Scenes) -> None:
    fog = corrupt_scenes(scenes, "fog").rgb[:10].astype(float)
    off = np.abs(fog - 190).mean(-1)
    near, far = (scenes.depth[:10] < 600), (scenes.depth[:10] > 6000)
    assert off[far].mean() < 0.15 * off[near].mean()


def test_dropout_takes_depth_away(scenes: Scenes) -> None:
    lost = corrupt_scenes(scenes, "depth_dropout").depth == 0
    assert 0.4 < lost.mean() < 0.75


@pytest.mark.parametrize(("words", "message"), [({"height": 31}, "`height`"), ({"seed": -1}, "`seed`")])
def test_bad_sizes(words: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_scenes([0], **words)
