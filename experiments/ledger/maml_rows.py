"""The rows of MAML: sinusoid, Omniglot, and natural images.

Minutes are those of a seed on two CPU cores: of the card's kept runs, scaled to its meta-steps.
"""

import dataclasses
from typing import Any

from experiments.ledger.families import LICENSED, T_NAS, TESTS, Figures, Rows, family, shorter
from experiments.ledger.row import Published, Row

_MAML = "MAML (Finn et al. 2017)"
_MINUTES = {"5way_1shot": 67, "5way_5shot": 280, "20way_1shot": 1_080, "20way_5shot": 5_400}
_MINUTES |= {"mlp_5way_1shot": 16, "mlp_5way_5shot": 30}
_SHORTER = {"5way_1shot": 22, "5way_5shot": 28, "20way_1shot": 90, "20way_5shot": 90}
_SHORTER |= {"mlp_5way_1shot": 8, "mlp_5way_5shot": 15}
_COLOUR_MINUTES = {"5way_1shot": 130, "5way_5shot": 200}


def sinusoid() -> Rows:
    """Training with 10 points, and tests with 5 and 10."""
    curve = "; published as a curve only (figure 3)"
    own: dict[str, Any] = {"baselines": (), **TESTS}
    pretrained = own | {"algorithm": "pretrained"}
    oracle = pretrained | {"task.oracle": True}
    by_run: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
        "sinusoid": ("MAML", own, (0.67, 0.38, 0.35)),
        "sinusoid-pretrained": ("pretrained network", pretrained, (2.41, 2.23, 2.19)),
        "sinusoid-oracle": ("oracle", oracle, ()),
    }
    rows = {}
    for name, (text, overrides, losses) in by_run.items():
        after = zip(losses, (1, 5, 10), strict=False)
        rows[f"{name}-5points"] = Row(
            _MAML,
            f"sinusoid, 5 support points, {text}",
            "sinusoid:paper",
            tuple(Published(loss, None, step) for loss, step in after),
            "MAML, appendix C, 5-shot sinusoid regression" if losses else "",
            overrides,
            deviations="100 query points at test" + ("" if losses else curve),
            steps=(1, 5, 10),
            cpu_minutes=4,
        )
        rows[f"{name}-10points"] = Row(
            _MAML,
            f"sinusoid, 10 support points, {text}",
            "sinusoid:paper",
            overrides=overrides,
            run_of=f"{name}-5points",
            evaluation={"shots": 10},
            deviations=f"100 query points at test{curve}",
            steps=(1, 5, 10),
        )
    return rows


def maml_on_omniglot() -> Rows:
    """The six rows, and shorter ones beside them."""
    figures: Figures = {
        "5way_1shot": (98.7, 0.4),
        "5way_5shot": (99.9, 0.1),
        "20way_1shot": (95.8, 0.3),
        "20way_5shot": (98.9, 0.2),
        "mlp_5way_1shot": (89.7, 1.1),
        "mlp_5way_5shot": (97.5, 0.6),
    }
    rows = family(
        "omniglot",
        _MAML,
        "Omniglot",
        "omniglot:{}_paper",
        figures,
        _MINUTES,
        source="MAML, table 1",
        overrides=TESTS,
    )
    made = shorter(rows, _SHORTER)
    name = "omniglot-5way-1shot-cpu"
    made[f"{name}-published-head"] = dataclasses.replace(
        made[name],
        text=f"{made[name].text}, published last layer",
        overrides={**TESTS, "model.head_init": "auto"},
    )
    return rows | made


def maml_on_natural_images() -> Rows:
    """CIFAR-FS, FC100, and miniImageNet, whose data you have to bring."""
    cifar = family(
        "cifar-fs",
        _MAML,
        "CIFAR-FS",
        "cifar_fs:{}",
        {"5way_1shot": (58.9, 1.9), "5way_5shot": (71.5, 1.0)},
        _COLOUR_MINUTES,
        source="Bertinetto et al. 2019, as cited in Lee et al. 2019 (MetaOptNet), table 2",
        queries_as_shots=True,
        overrides=TESTS,
        deviations="MAML's settings of miniImageNet",
    )
    cifar |= shorter(cifar, {variant: 0.3 * of for variant, of in _COLOUR_MINUTES.items()})
    fc100 = family(
        "fc100",
        _MAML,
        "FC100",
        "fc100:{}",
        {"5way_1shot": (38.1, 1.7), "5way_5shot": (50.4, 1.0)},
        _COLOUR_MINUTES,
        source=f"{T_NAS}, table 4",
        queries_as_shots=True,
        overrides=TESTS,
        deviations="MAML's settings of miniImageNet",
    )
    mini = family(
        "mini-imagenet",
        _MAML,
        "miniImageNet",
        "mini_imagenet:{}",
        {"5way_1shot": (48.70, 1.84), "5way_5shot": (63.11, 0.92)},
        source="MAML, table 1",
        queries_as_shots=True,
        overrides=TESTS,
        needs=LICENSED,
    )
    return cifar | fc100 | mini
