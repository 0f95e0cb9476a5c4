"""The rows of the ledger. Every published figure names the table that it was read in."""

from experiments.ledger import maml_rows, other_rows
from maml_jax.registry import Registry

ROWS = Registry(
    "row",
    {
        **maml_rows.sinusoid(),
        **maml_rows.maml_on_omniglot(),
        **maml_rows.maml_on_natural_images(),
        **other_rows.first_order(),
        **other_rows.plus_plus(),
        **other_rows.meta_sgd(),
        **other_rows.anil(),
        **other_rows.boil(),
        **other_rows.implicit(),
        **other_rows.reptile(),
        **other_rows.sparse(),
    },
)
