"""Small image data sets that the tests write."""

import io

import numpy as np
from PIL import Image


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_folder(root, classes=10, each=4, kinds=("png", "gif", "bmp")):
    """Images of one gray level per class; class 0 has one image less."""
    for c in range(classes):
        (root / f"class{c:02}").mkdir(parents=True)
        for i in range(each - (c == 0)):
            image = Image.new("L", (9, 12), 20 * c)
            image.save(root / f"class{c:02}" / f"{i}.{kinds[i % len(kinds)]}")
    (root / "class01" / "notes.txt").write_text("not an image")


def gray_levels(pools):
    return {
        name: set(np.unique(pool.images[i, : pool.counts[i]]))
        for pool, names in zip(pools[:3], pools.classes, strict=True)
        for i, name in enumerate(names)
    }
