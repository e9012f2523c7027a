"""Images: reading, decoding, augmentation and networks that recipes of images share."""

from ltaug.vision.decoding import to_rgb
from ltaug.vision.digits import Digits, read_digits
from ltaug.vision.small import SmallImages, read_small_images

__all__ = ["Digits", "SmallImages", "read_digits", "read_small_images", "to_rgb"]
