"""A result as the study of accelerated methods keeps it."""

from experiments.publish.results import Record


def accelerated_record(measure: str, scores: dict[str, float]) -> Record:
    arms = {
        name: {
            "overrides": {} if name.startswith("gd") else {"inner.optimizer": name},
            "runs": [{measure: [3.0, score], "inner_compute": [0.0, 1e6]}],
        }
        for name, score in scores.items()
    }
    rows = [{"arm": name, measure: {"mean": score}} for name, score in scores.items()]
    return {"config": {"inner": {"num_steps": 20}}, "arms": arms, "rows": rows}
