"""What makes rows that differ in the ways and shots of an episode."""

from collections.abc import Mapping
from typing import Any

from experiments.ledger.row import Published, Row

Rows = dict[str, Row]
Figures = Mapping[str, tuple[float, float | None]]  # variant -> accuracy in %, its interval
LICENSED = "miniImageNet, which may not be passed on"
T_NAS = "Lian et al. 2020 (T-NAS)"
TESTS = {"eval.num_episodes": 600}  # published: 1.96 σ/√600


def _name(prefix: str, variant: str) -> str:
    return f"{prefix}-{variant}".replace("_", "-")


def _text(data: str, variant: str) -> str:
    """As "Omniglot 5-way 1-shot, MLP"."""
    ways, shots = variant.removeprefix("mlp_").split("_")
    network = ", MLP" if variant.startswith("mlp") else ""
    return f"{data} {ways.removesuffix('way')}-way {shots.removesuffix('shot')}-shot{network}"


def _shots(variant: str) -> int:
    return int(variant.rpartition("_")[2].removesuffix("shot"))


def family(
    prefix: str,
    paper: str,
    data: str,
    card: str,
    figures: Mapping[str, tuple[float, float | None] | None],
    minutes: Mapping[str, float] | None = None,
    queries_as_shots: bool = False,
    over: str = "tasks",
    **fields: Any,
) -> Rows:
    """Rows that differ in the ways and shots of an episode.

    Args:
      prefix: of the names.
      paper: see `Row`.
      data: as it is called in `Row.text`.
      card: with {} in place of the variant.
      figures: variant -> accuracy in % and its interval, or None if none is published.
      minutes: variant -> estimated time on two CPU cores.
      queries_as_shots: whether a test has as many query as support images of a class, whatever the
        training has.
      over: unit of the published intervals, see `Published`.
      **fields: the others of `Row`.
    """
    return {
        _name(prefix, variant): Row(
            paper,
            _text(data, variant),
            card.format(variant),
            (Published(*of, over=over),) if of else (),
            cpu_minutes=(minutes or {}).get(variant, 0),
            evaluation={"query_shots": _shots(variant)} if queries_as_shots else {},
            **fields,
        )
        for variant, of in figures.items()
    }


def shorter(rows: Rows, minutes: Mapping[str, float], **overrides: Any) -> Rows:
    """Rows with the `_cpu` variants of the cards, beside those with the published recipe."""
    made = {}
    for name, row in rows.items():
        module, variant = row.card.removesuffix("_paper").split(":")
        made[f"{name}-cpu"] = Row(
            row.paper,
            f"{row.text}, shorter",
            f"{module}:{variant}_cpu",
            row.published,
            row.source,
            {**row.overrides, **overrides},
            variant_of=name,
            cpu_minutes=minutes.get(variant, 0),
        )
    return made
