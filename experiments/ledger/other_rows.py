"""The rows of MAML's relatives."""

from experiments.ledger.families import LICENSED, T_NAS, TESTS, Figures, Rows, family, shorter


def first_order() -> Rows:
    """First-order MAML on Omniglot and miniImageNet."""
    overrides = {**TESTS, "algorithm": "fomaml"}
    figures: Figures = {
        "5way_1shot": (98.3, 0.5),
        "5way_5shot": (99.2, 0.2),
        "20way_1shot": (89.4, 0.5),
        "20way_5shot": (97.9, 0.1),
    }
    omniglot = family(
        "fomaml-omniglot",
        "first-order MAML",
        "Omniglot",
        "omniglot:{}_paper",
        figures,
        source="Nichol et al. 2018 (Reptile), as cited in iMAML, table 2",
        overrides=overrides,
        deviations="MAML's settings; those of the source were not read",
    )
    mini = family(
        "fomaml-mini-imagenet",
        "first-order MAML",
        "miniImageNet",
        "mini_imagenet:{}",
        {"5way_1shot": (48.07, 1.75), "5way_5shot": (63.15, 0.91)},
        source="MAML, table 1",
        queries_as_shots=True,
        overrides=overrides,
        needs=LICENSED,
    )
    return omniglot | mini


def plus_plus() -> Rows:
    """MAML++ on Omniglot."""
    figures: Figures = {
        "5way_1shot": (99.47, None),
        "5way_5shot": (99.93, None),
        "20way_1shot": (97.65, 0.05),
        "20way_5shot": (99.33, 0.03),
    }
    return family(
        "maml-plus-plus-omniglot",
        "MAML++ (Antoniou et al. 2019)",
        "Omniglot",
        "maml_plus_plus:{}",
        figures,
        source=f"MAML++, Omniglot tables; 5-way as cited in {T_NAS}, table 1",
        over="runs",
        parameters="ensemble",
        deviations="1100 / 100 / 423 characters (the authors: 1150 / 50 / 423), turned at test too",
    )


def meta_sgd() -> Rows:
    """Meta-SGD on Omniglot."""
    return family(
        "meta-sgd-omniglot",
        "Meta-SGD (Li et al. 2017)",
        "Omniglot",
        "omniglot:{}_paper",
        {"5way_1shot": (99.53, 0.26), "5way_5shot": (99.93, 0.09)},
        source=f"Meta-SGD, as cited in {T_NAS}, table 1",
        overrides={**TESTS, "algorithm": "meta_sgd", "eval.num_steps": 1},
        deviations="MAML's settings; the step sizes start at MAML's (published: at random)",
    )


def anil() -> Rows:
    """ANIL on Omniglot."""
    return family(
        "anil-omniglot",
        "ANIL (Raghu et al. 2020)",
        "Omniglot",
        "omniglot:{}_paper",
        {"20way_1shot": (96.2, 0.5), "20way_5shot": (98.0, 0.3)},
        source="ANIL, table of few-shot accuracies",
        overrides={**TESTS, "algorithm": "anil"},
        deviations="MAML's settings",
    )


def boil() -> Rows:
    """BOIL on CIFAR-FS and miniImageNet."""
    overrides = {
        "algorithm": "boil",
        "num_meta_steps": 30_000,
        "meta_batch_size": 4,
        "model.filters": 64,
        "inner.num_steps": 1,
        "inner.step_size": 0.5,
        "outer.clip": 0.0,
        "eval.num_steps": 1,
        "eval.num_episodes": 1_000,
    }
    settings = "the number of meta-steps is the default of the authors' code"
    cifar = family(
        "boil-cifar-fs",
        "BOIL (Oh et al. 2021)",
        "CIFAR-FS",
        "cifar_fs:{}",
        {"5way_1shot": None, "5way_5shot": None},
        overrides=overrides,
        deviations=f"{settings}; the paper's figures on CIFAR-FS were not found",
    )
    mini = family(
        "boil-mini-imagenet",
        "BOIL (Oh et al. 2021)",
        "miniImageNet",
        "mini_imagenet:{}",
        {"5way_1shot": (49.61, 0.16), "5way_5shot": (66.45, 0.37)},
        over="runs",
        source="BOIL, as cited in LibFewShot; sparse-MAML, table 1",
        overrides=overrides,
        deviations=settings,
        needs=LICENSED,
    )
    return cifar | mini


def implicit() -> Rows:
    """iMAML on Omniglot, with gradient descent as its inner solver."""
    rows: Rows = {}
    for ways, steps in {"5way": 16, "20way": 25}.items():
        figures: Figures = {
            "5way_1shot": (99.16, 0.35),
            "5way_5shot": (99.67, 0.12),
            "20way_1shot": (94.46, 0.42),
            "20way_5shot": (98.69, 0.1),
        }
        overrides = {
            **TESTS,
            "algorithm": "imaml",
            "num_meta_steps": 20_000,
            "inner.num_steps": steps,
            "eval.num_steps": steps,
            "inner.step_size": 0.1,
            "inner.proximal": 2.0,
        }
        rows |= family(
            "imaml-omniglot",
            "iMAML (Rajeswaran et al. 2019)",
            "Omniglot",
            "omniglot:{}_paper",
            {variant: of for variant, of in figures.items() if variant.startswith(f"{ways}_")},
            source="iMAML, table 2, gradient descent (Hessian-free: 99.50, 99.74, 96.18, 99.14)",
            overrides=overrides,
            deviations="no damping of the conjugate gradients (published: 1.0)",
        )
    return rows


def reptile() -> Rows:
    """Reptile on Omniglot, with transduction."""
    figures: Figures = {"5way_1shot": (97.68, 0.04), "5way_5shot": (99.48, 0.06)}
    overrides = {
        "algorithm": "reptile",
        "num_meta_steps": 100_000,
        "meta_batch_size": 10,
        "task.shots": 15,
        "task.query_shots": 1,
        "inner.num_steps": 3,
        "inner.optimizer": "adam",
        "inner.step_size": 1e-3,
        "outer.optimizer": "sgd",
        "outer.learning_rate": 1.0,
        "outer.schedule": "cosine",
        "eval.num_steps": 5,
        "eval.num_episodes": 10_000,
    }
    made: Rows = {}
    for variant, of in figures.items():
        shots = int(variant[-5])
        made |= family(
            "reptile-omniglot",
            "Reptile (Nichol et al. 2018)",
            "Omniglot",
            "omniglot:{}_paper",
            {variant: of},
            over="runs",
            source="Nichol et al. 2018, as cited in iMAML, table 2 (with transduction)",
            overrides={**overrides, "eval.shots": shots, "eval.query_shots": 1},
            deviations="the inner steps take all 75 examples (published: 25 of them), Adam's β1 is "
            "0.9 (0), the outer rate decays along a cosine (a line); the settings of 1 shot are "
            "used for 5 as well; 1100 training characters, turned by class (1200, each turn a "
            "class of its own), test characters are turned (not turned); conv4 averages over "
            "space (flattens)",
        )
    return made


def sparse() -> Rows:
    """The ordering on natural images: MAML < sparse-ReLU-MAML ≈ sparse-MAML."""
    arms = {"fomaml": "MAML", "sparse_maml": "sparse-MAML", "sparse_relu_maml": "sparse-ReLU-MAML"}
    prefixes = {"fomaml": "sparse-baseline"}
    figures: dict[str, Figures] = {
        "fomaml": {"5way_5shot": (63.15, None), "5way_1shot": (48.07, None)},
        "sparse_maml": {"5way_5shot": (67.03, None), "5way_1shot": (50.35, None)},
        "sparse_relu_maml": {"5way_5shot": (66.80, None), "5way_1shot": (50.15, None)},
    }
    rows: Rows = {}
    for algorithm, text in arms.items():
        paper = f"{text}, as in von Oswald et al. 2021"
        overrides = {"algorithm": algorithm}
        name = prefixes.get(algorithm, text.lower())
        cifar = family(
            f"{name}-cifar-fs",
            paper,
            "CIFAR-FS",
            "sparse_maml:{}",
            {"5way_5shot": None},
            {"5way_5shot": 1_150},
            overrides=overrides,
            deviations="published on miniImageNet alone"
            + ("; first-order, as the other arms" * (algorithm == "fomaml")),
        )
        mini = family(
            f"{name}-mini-imagenet",
            paper,
            "miniImageNet",
            "sparse_maml:{}",
            figures[algorithm],
            source="sparse-MAML, table 1",
            overrides={**overrides, "data.name": "mini_imagenet:~/data/mini_imagenet"},
            deviations="64 filters and 35 steps, as the other arms; the number is that of "
            "first-order MAML with 32 filters and 5 steps" * (algorithm == "fomaml"),
            needs=LICENSED,
        )
        rows |= cifar | shorter(cifar, {"5way_5shot": 30}) | mini
    return rows
