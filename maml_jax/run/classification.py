"""Classifying images with a trained model: a table, a CSV and a contact sheet."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import ImageOps

from maml_jax.errors import UsageError
from maml_jax.run import files
from maml_jax.run.formats import plural, text_table
from maml_jax.run.messages import note
from maml_jax.run.model import Model
from maml_jax.tasks.images.folders import describe, list_images
from maml_jax.tasks.images.records import read_image

_PRINTED = 50  # images in the terminal
_SUPPORT_SHOWN, _QUERY_SHOWN, _THUMBNAIL = 5, 12, 84  # images of a class, pixels


class Image(NamedTuple):
    """An image file, and the class whose folder it is in; empty if it is in none."""

    path: pathlib.Path
    label: str


class Classified(NamedTuple):
    """The labelled images of a task, and what was predicted of the others."""

    support: list[Image]
    query: list[Image]
    classes: list[str]
    labels: list[str]  # [Q], predicted
    probabilities: np.ndarray  # [Q, N]

    def accuracy(self) -> tuple[int, int]:
        """How many of the query images in class folders are right, and of how many."""
        pairs = zip(self.query, self.labels, strict=True)
        right = [of.label == label for of, label in pairs if of.label]
        return sum(right), len(right)


def find_images(folder: str, name: str, *, beside: bool = False) -> list[Image]:
    """The images in a folder, in order.

    Args:
      folder: a folder of class folders.
      name: what messages call the folder, such as "--support".
      beside: also take images that are in no class folder.

    Raises:
      UsageError: it is no folder, cannot be read or has no images.
    """
    root = files.local_folder(folder)
    if not root.is_dir():
        raise UsageError(f"{name}={folder} is no folder; give a folder of images")
    try:
        paths, left_out = list_images(root, follow_links=True, beside=beside)
    except OSError as error:
        raise UsageError(f"{name}={folder} cannot be read ({error.strerror})") from error
    if left_out:
        note(f"{name}={folder}: left out: {describe(left_out)}")
    if not paths:
        where = "images" if beside else "folders of images, one for each class"
        raise UsageError(f"{name}={folder} has no images; give a folder of {where}")
    parts = [path.relative_to(root).parts for path in paths]
    labels = [part[0] if len(part) > 1 else "" for part in parts]
    return [Image(path, label) for path, label in zip(paths, labels, strict=True)]


def classify(
    model: Model, support: Sequence[Image], query: Sequence[Image], num_steps: int | None = None
) -> Classified:
    """Adapts to the support images and predicts the query images.

    Raises:
      UsageError: the model classifies no images, an image cannot be read, or the number of classes
        does not fit.
    """
    if not model.experiment.problem.ways or model.inputs.dtype != "uint8":
        raise UsageError(f"{model} classifies no images; use a model of images")
    if model.transductive:
        kind = model.experiment.spec.model.normalization
        note(
            f"the network normalizes all query images together (model.normalization={kind!r}): "
            "what is predicted of one depends on the others"
        )
    try:
        adapted = model.adapt(
            [of.path for of in support], [of.label for of in support], num_steps=num_steps
        )
        prediction = adapted.predict([of.path for of in query])
    except ValueError as error:
        raise UsageError(str(error)) from error
    known = [of if of.label in prediction.classes else of._replace(label="") for of in query]
    return Classified(
        list(support), known, prediction.classes, prediction.labels, prediction.probabilities
    )


def _class_table(of: Classified) -> str:
    """How many images were predicted as each class; of labelled ones, how many are right."""
    pairs = [(image.label, label) for image, label in zip(of.query, of.labels, strict=True)]
    labelled = any(true for true, _ in pairs)
    rows = []
    for name in of.classes:
        row = [name, str(of.labels.count(name))]
        if labelled:
            in_folder = [label for true, label in pairs if true == name]
            row += [str(len(in_folder)), str(in_folder.count(name))]
        rows.append(row)
    return text_table(["class", "predicted", *(["in its folder", "right"] * labelled)], rows)


def as_table(of: Classified) -> str:
    """The predictions in columns, their number for each class, and the accuracy if it is known."""
    labelled = any(image.label for image in of.query)
    rows = []
    for image, label, row in zip(of.query, of.labels, of.probabilities, strict=True):
        true = [image.label] if labelled else []
        rows.append(
            [f"{image.path.parent.name}/{image.path.name}", label, f"{row.max():.1%}", *true]
        )
    head = ["image", "predicted", "probability", *(["folder"] if labelled else [])]
    table = text_table(head, rows[:_PRINTED])
    if more := len(rows) - _PRINTED:
        table += f"\n... and {more} more" if more > 0 else ""
    table += f"\n\n{_class_table(of)}"
    right, number = of.accuracy()
    if number:
        table += f"\naccuracy: {right} of {number} images, {right / number:.1%}"
    return table


def as_csv(of: Classified) -> str:
    """One row for each query image, with the probabilities of all classes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "predicted", "folder", *(f"p({name})" for name in of.classes)])
    for image, label, row in zip(of.query, of.labels, of.probabilities, strict=True):
        writer.writerow([image.path, label, image.label, *(f"{p:.6f}" for p in row)])
    return text.getvalue()


def contact_sheet(of: Classified) -> Figure:
    """One row for each class: its support images, and the query images predicted as it."""
    per_class = {
        name: [i for i, label in enumerate(of.labels) if label == name] for name in of.classes
    }
    support = {name: [image for image in of.support if image.label == name] for name in of.classes}
    shots = min(max(map(len, support.values())), _SUPPORT_SHOWN)
    shown = min(max(map(len, per_class.values())), _QUERY_SHOWN)
    figure = Figure(
        figsize=(1.2 * (shots + shown) + 0.8, 1.45 * len(of.classes) + 0.5), layout="constrained"
    )
    grid = figure.subplots(len(of.classes), shots + shown, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, name in zip(grid, of.classes, strict=True):
        for axes, image in zip(row[:shots], support[name], strict=False):
            _show(axes, image, name, "black")
        best = sorted(per_class[name], key=lambda i: -of.probabilities[i].max())
        for axes, index in zip(row[shots:], best, strict=False):
            image = of.query[index]
            right = {"": "black", name: "tab:blue"}.get(image.label, "tab:red")
            wrong = f"\n(in {image.label})" if image.label not in ("", name) else ""
            _show(axes, image, f"{of.probabilities[index].max():.0%}{wrong}", right)
        if len(best) > shown:
            row[-1].text(
                1.05, 0.5, f"+{len(best) - shown}", transform=row[-1].transAxes, fontsize="small"
            )
    figure.suptitle(
        f"left: {plural(shots, 'labelled image')} of each class; right: predicted as it",
        fontsize="small",
    )
    return figure


def _show(axes: Axes, image: Image, title: str, color: str) -> None:
    pixels = ImageOps.contain(read_image(image.path).convert("RGB"), (_THUMBNAIL, _THUMBNAIL))
    axes.imshow(np.asarray(pixels))
    axes.set_title(title, fontsize="x-small", color=color)
