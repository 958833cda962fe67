"""How large images may be: all are seen at one size."""

from glimpse_models.llava_1_5.light.record import ImageRules


def visual_tokens(images: ImageRules) -> tuple[int, int]:
    """Returns the visual tokens of the smallest and of the largest image, which are the same."""
    return images.side**2, images.side**2


def max_pixels(images: ImageRules) -> int:
    """Returns the pixels of every image."""
    return images.image_size**2


def image_text(images: ImageRules) -> str:
    """Returns the size in words."""
    how = "padded to a square and resized" if images.pad else "resized and cropped"
    return f"{images.image_size} x {images.image_size} pixels; others are {how}"
