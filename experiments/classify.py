"""Adapts a trained model to folders of labelled images and classifies other images.

SUPPORT has a folder of images for each class. QUERY is a folder of images; if they are in folders
named as the classes, the accuracy is printed too. --workdir is the folder of a run, a file of
Model.save or the name of a pretrained model.

python -m experiments.classify --workdir=runs/glyphs --support=SUPPORT --query=QUERY

Writes predictions.csv, with the probabilities of all classes, and predictions.png, a contact sheet.
"""

import io

from absl import flags

from experiments import cli

cli.import_modules()
_MODEL = flags.DEFINE_string(
    "workdir",
    None,
    "folder of a run, file of a model, or name of a pretrained model",
    required=True,
)
_SUPPORT = flags.DEFINE_string(
    "support", None, "folder with a folder of labelled images for each class", required=True
)
_QUERY = flags.DEFINE_string("query", None, "folder of the images to classify", required=True)
_OUTPUT = flags.DEFINE_string("output", "classified", "folder of the CSV and the contact sheet")
_STEPS = flags.DEFINE_integer(
    "num_steps", None, "inner steps K; default: those of the run's evaluation", lower_bound=0
)


def main(_: list[str]) -> None:
    """Prints the table and writes both files."""
    from maml_jax.run import classification, files, load

    model = load(_MODEL.value)
    support = classification.find_images(_SUPPORT.value, "--support")
    query = classification.find_images(_QUERY.value, "--query", beside=True)
    of = classification.classify(model, support, query, _STEPS.value)
    output, png = files.local_folder(_OUTPUT.value), io.BytesIO()
    with files.writing(output):
        output.mkdir(parents=True, exist_ok=True)
    classification.contact_sheet(of).savefig(png, dpi=100, format="png")
    files.write(output / "predictions.csv", classification.as_csv(of))
    files.write(output / "predictions.png", png.getvalue())
    print(classification.as_table(of))
    print(f"written: {output / 'predictions.csv'}, {output / 'predictions.png'}")


if __name__ == "__main__":
    cli.run(main)
