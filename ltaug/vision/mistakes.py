"""Sections of a report: test images of every shot group that are most confidently mistaken."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image
from torch import Tensor

from ltaug.priors import shot_groups
from ltaug.vision.image_set import ImageSet

__all__ = ["mistake_sections"]

EXAMPLES, SIDE = 8, 128
"""Test images a shot group, and their side in pixels."""


def mistake_sections(
    images: ImageSet, logits: Tensor, labels: Tensor, class_names: Sequence[str], class_counts: Tensor
) -> list[tuple[str, str]]:
    """Show for every shot group the test images that are most confidently taken for another class.

    Args:
        images: the test images.
        logits: of them, [N, C].
        labels: int64 [N].
        class_names: C names.
        class_counts: training samples a class, [C].

    Returns:
        Titles and HTML of the sections.
    """
    confidence, predicted = logits.softmax(1).max(1)
    sections = []
    for group, members in shot_groups(class_counts).items():
        wrong = (members[labels] & (predicted != labels)).nonzero()[:, 0]
        if not len(wrong):
            continue
        cards = []
        for k in wrong[confidence[wrong].argsort(descending=True)][:EXAMPLES].tolist():
            truth, taken_for = class_names[int(labels[k])], class_names[int(predicted[k])]
            caption = f"{truth}, taken for {taken_for} ({100 * float(confidence[k]):.0f} %)"
            cards.append(_thumbnail(images.image(k)[0], caption))
        share = f"{len(wrong)} of {int(members[labels].sum())} test images are wrong; the most confident {len(cards)}."
        sections.append(
            (f"Mistakes: {group}-shot", f'<p>{share}</p><div class="figures thumbs">{"".join(cards)}</div>')
        )
    return sections


def _thumbnail(image: Image.Image, caption: str) -> str:
    """A card with a small picture that the page carries."""
    small, data, text = image.copy(), io.BytesIO(), escape(caption)
    small.thumbnail((SIDE, SIDE))
    small.save(data, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    return f'<figure><img src="{source}" alt="{text}" width="{SIDE}"><figcaption>{text}</figcaption></figure>'
