"""The table of rows: configs that are accepted, and what is said about them."""

import pytest

from experiments.ledger import families
from experiments.ledger.row import (
    Published,
    Row,
    conflicts,
    differences_of_tests,
    portable,
    protocol,
)
from experiments.ledger.rows import ROWS
from maml_jax.run.config import check_given, flatten, resolve


def test_every_row_is_a_run_that_the_package_accepts() -> None:
    for name, row in ROWS.items():
        check_given(row.config(), row.overrides)
        tiny = resolve(row.smoke_config())
        assert tiny.num_meta_steps == 2, name
        assert max([of.step for of in row.published], default=0) <= tiny.eval.num_steps, name
        assert row.config(7).seed == 7, name
        assert set(row.evaluation) <= {key for key, _ in flatten(row.config().eval)}, name


def test_rows_refer_to_rows() -> None:
    for name, row in ROWS.items():
        if row.variant_of:
            published = ROWS[row.variant_of]
            assert (row.published, row.source) == (published.published, published.source), name
            assert conflicts(published.config(), row.config()), name
        if row.run_of:
            assert not conflicts(ROWS[row.run_of].config(), row.config()), name
            assert row.evaluation, name


def test_every_published_number_names_its_source() -> None:
    assert all(row.source for row in ROWS.values() if row.published)
    assert all(row.deviations for row in ROWS.values() if not row.published and not row.variant_of)


def test_a_protocol_is_that_of_the_config() -> None:
    assert protocol(ROWS["omniglot-20way-5shot"]) == (
        "60,000 meta-steps of 16 tasks, 5 query images of a class; 5 inner steps of 2 in training, "
        "5 at test; 600 test tasks"
    )


def test_shorter_rows_name_what_differs() -> None:
    made = families.shorter({"a": ROWS["omniglot-5way-1shot"]}, {}, **{"model.filters": 8})
    assert conflicts(ROWS["omniglot-5way-1shot"].config(), made["a-cpu"].config()) == [
        "model.filters: 64 -> 8",
        "model.head_init: auto -> xavier",
        "num_meta_steps: 60000 -> 20000",
        "outer.schedule: constant -> cosine",
    ]


def test_natural_images_are_tested_with_as_many_query_images_as_in_mamls_code() -> None:
    for name in ("cifar-fs-5way-1shot", "fc100-5way-1shot", "mini-imagenet-5way-1shot"):
        spec = ROWS[name].tested()
        assert (spec.task.query_shots, spec.eval.query_shots) == (15, 1), name
    shorter = ROWS["cifar-fs-5way-5shot-cpu"]
    assert differences_of_tests(ROWS["cifar-fs-5way-5shot"], shorter) == [
        "eval.query_shots: 5 -> 15"
    ]
    assert "15 query images of a class (5 at test)" in protocol(ROWS["cifar-fs-5way-5shot"])


def test_a_kept_config_names_no_folder_of_a_machine() -> None:
    row = ROWS["mini-imagenet-5way-1shot"].with_data("mini_imagenet:/home/me/images")
    assert row.config().data.name == "mini_imagenet:/home/me/images"
    assert "/home/me" not in str(portable(row.config().to_dict()))
    assert not conflicts(row.config(), ROWS["mini-imagenet-5way-1shot"].config())
    other = ROWS["omniglot-5way-1shot"]
    assert other.with_data("mini_imagenet:/home/me/images") is other


@pytest.mark.parametrize(
    ("published", "text"), [(Published(99.9, 0.1), "99.9 ± 0.1"), (Published(0.35), "0.35")]
)
def test_published_numbers_are_shown_as_published(published: Published, text: str) -> None:
    assert published.text == text
    assert Row("", "", "sinusoid").command_card == "configs/sinusoid.py"
