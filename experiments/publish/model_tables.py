"""The table of the pretrained models in the guide to trained models."""

from experiments.publish.formats import markdown
from experiments.publish.results import Record
from maml_jax.run import pretrained
from maml_jax.run.formats import interval


def models() -> str:
    """Name, what it was trained on, result and command of every model of the package."""
    rows = [
        [f"`{name}`", _protocol(of["config"]), *_measured(of["record"]), _code(of["record"])]
        for name, of in pretrained().items()
    ]
    head = ["`mj.load(NAME)`", "data and protocol", "meta-steps", "before", "after", "command"]
    return markdown(head, rows)


def _protocol(config: Record) -> str:
    task, test = config["task"], config["eval"]
    kind = "" if config["algorithm"] == "maml" else f", `{config['algorithm']}`"
    shots, episodes = test["shots"] or task["shots"], f"{test['num_episodes']:,} test tasks{kind}"
    if task["name"] != "images":
        return f"{task['name']}, {shots} points, {episodes}"
    return (
        f"{config['data']['name']}, {task['ways']}-way {shots}-shot, {episodes}, "
        f"`{config['model']['normalization']}` statistics"
    )


def _measured(record: Record) -> list[str]:
    """Meta-steps, and the measure before and after adaptation."""
    shown = record | record.get("selected", {})
    percent = "accuracy" in shown
    measure, unit = ("accuracy", "%") if percent else ("loss", "")
    before, after = (
        interval(shown[measure][step], shown[f"{measure}_ci95"][step], percent=percent) + unit
        for step in (0, -1)
    )
    steps = f"{record['num_steps']} steps"
    if "lengths" in shown:
        steps = f"at most {steps}, {shown['lengths']['length/mean']:.1f} on average"
    return [f"{shown['meta_step']:,}", before, f"{after} ({steps})"]


def _code(record: Record) -> str:
    return f"`{record['command']}`"
