"""C in the kept studies."""

import json

from experiments.publish import recount, results


def test_kept_studies_have_the_compute_of_todays_count() -> None:
    name = "acceleration_sinusoid_20_cost_16"
    kept = json.loads((results.RESULTS / f"{name}.json").read_text())
    assert recount.recount(name) == kept
