"""Small image data sets that the tests write."""

import io

import numpy as np
from PIL import Image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(root, classes=10, each=4, kinds=("png", "gif", "bmp")):
    """Image i of class c has the gray level 20 c + i; class 0 has one image less."""
    for c in range(classes):
        (root / f"class{c:02}").mkdir(parents=True)
        for i in range(each - (c == 0)):
            image = Image.new("L", (9, 12), 20 * c + i)
            image.save(root / f"class{c:02}" / f"{i}.{kinds[i % len(kinds)]}")
    (root / "class01" / "notes.txt").write_text("not an image")


def gray_levels(pools):
    return {
        name: set(np.unique(pool.images[i, : pool.counts[i]]))
        for pool, names in zip(pools[:3], pools.classes, strict=True)
        for i, name in enumerate(names)
    }
