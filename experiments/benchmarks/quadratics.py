"""Error against steps of the accelerated methods on a quadratic, beside the lower bound.

python -m experiments.benchmarks.quadratics

The quadratics are diagonal, with condition κ = 10, 100 and 10,000 and both ends in the spectrum.
Every method has its textbook parameters and takes 10 √κ steps from x_0 = (1, …, 1). For methods
that are made for a final T, the loss of a coordinate that halts earlier is measured as well. The
results are kept in experiments/results/quadratics.json and .png.
"""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from absl import flags
from matplotlib.figure import Figure

from experiments import cli
from experiments.publish import results
from experiments.publish.results import Record
from maml_jax.inner import optimizers
from maml_jax.inner.optimizers.history import ConjugateState
from maml_jax.inner.optimizers.momentum import RestartState
from maml_jax.run import provenance
from maml_jax.types import Array, PyTree

_STEPS = flags.DEFINE_float(
    "steps_over_root", 10.0, "number of steps T over √condition", lower_bound=1.0
)
CONDITIONS = (10.0, 100.0, 10_000.0)
COORDINATES = 50
MADE_FOR_FINAL = ("OGM", "Chebyshev steps", "Chebyshev")  # the last is not: for comparison
FINAL, HALTED = 20, (1, 5, 10, 15, 19, 20)  # T, and steps at which a coordinate halts
BOUND = "lower bound, worst start"
Method = tuple[optax.GradientTransformation, float]  # transform, α


def methods(condition: float, num_steps: int) -> dict[str, Method]:
    """Every method at the parameters that its rate is stated for; L = 1, μ = 1/κ."""
    root, smallest = np.sqrt(condition), 1 / condition
    best = (root - 1) / (root + 1)
    heavy = optimizers.scale_by_heavy_ball(best**2), 4 / (1 + np.sqrt(smallest)) ** 2
    fista = optimizers.scale_by_nesterov_sequence()

    def barzilai_borwein(kind: str) -> optax.GradientTransformation:
        return optimizers.scale_by_barzilai_borwein(1.0, kind, largest=2 * condition)

    return {
        "gradient descent": (optax.identity(), 2 / (1 + smallest)),
        "heavy ball": heavy,
        "heavy ball, restarted": (optimizers.adaptive_restart(heavy[0]), heavy[1]),
        "heavy ball, restarted by value": (
            optimizers.adaptive_restart(heavy[0], "value"),
            heavy[1],
        ),
        "Nesterov, strongly convex": (optimizers.scale_by_nesterov_strongly_convex(smallest), 1.0),
        "Nesterov, t-sequence": (fista, 1.0),
        "Nesterov, restarted": (optimizers.adaptive_restart(fista), 1.0),
        "Nesterov, restarted by value": (optimizers.adaptive_restart(fista, "value"), 1.0),
        "OGM": (optimizers.scale_by_ogm(num_steps), 1.0),
        "Chebyshev steps": (optimizers.scale_by_chebyshev_steps(smallest, 1.0, num_steps), 1.0),
        "Chebyshev": (optimizers.scale_by_chebyshev(smallest, 1.0), 1.0),
        "Barzilai-Borwein, long": (barzilai_borwein("long"), 1.0),
        "Barzilai-Borwein, short": (barzilai_borwein("short"), 1.0),
        "conjugate gradients, PR+": (optimizers.scale_by_conjugate_gradient("pr"), 1.0),
        "conjugate gradients, HS": (optimizers.scale_by_conjugate_gradient("hs"), 1.0),
        "Anderson, m = 5": (optimizers.scale_by_anderson(1.0, 5, regularization=1e-12), 1.0),
    }


def lower_bound(condition: float, num_steps: int) -> np.ndarray:
    """1/T_k((κ+1)/(κ−1)): the largest relative error of the best polynomial of degree k."""
    argument = np.arccosh((condition + 1) / (condition - 1))
    bound: np.ndarray = 1 / np.cosh(argument * np.arange(num_steps + 1))
    return bound


def trajectory(method: Method, eigenvalues: Array, num_steps: int) -> tuple[Array, PyTree]:
    """The iterates [T+1, n] from x_0 = (1, …, 1) on, and the last state.

    Conjugate gradients step exactly.
    """
    transform, alpha = optax.with_extra_args_support(method[0]), method[1]

    def step(carry: PyTree, _: None) -> tuple[PyTree, Array]:
        x, state = carry
        gradient = eigenvalues * x
        value = 0.5 * jnp.sum(eigenvalues * x**2)
        u, state = transform.update(gradient, state, x, value=value)
        size = jnp.asarray(alpha)
        if isinstance(state, ConjugateState):
            curvature = jnp.sum(eigenvalues * u**2)
            size = jnp.sum(gradient * u) / jnp.where(curvature > 0, curvature, 1.0)
        x = x - size * u
        return (x, state), x

    start = jnp.ones_like(eigenvalues)
    (_, state), iterates = jax.lax.scan(step, (start, transform.init(start)), length=num_steps)
    return jnp.concatenate([start[None], iterates]), state


def errors(method: Method, eigenvalues: Array, num_steps: int) -> tuple[list[float], int | None]:
    """‖x_k‖/‖x_0‖ for k = 0 … T, and the number of restarts of a method that restarts."""
    iterates, state = trajectory(method, eigenvalues, num_steps)
    norms = jnp.linalg.norm(iterates, axis=1)
    restarts = int(state.restarts) if isinstance(state, RestartState) else None
    return np.asarray(norms / norms[0]).tolist(), restarts


def halted_early(name: str, condition: float, eigenvalues: Array) -> list[tuple[float, float]]:
    """Worst loss λx² of a coordinate that halts at each step of HALTED.

    The first number of a pair is that of a method made for T steps, the second that of one made for
    the step at which the coordinate halts. Coordinates of a diagonal quadratic do not influence
    each other, so the halted one has simply taken fewer steps.
    """

    def worst(num_steps: int, halted: int) -> float:
        x = trajectory(methods(condition, num_steps)[name], eigenvalues, halted)[0][-1]
        return float(jnp.max(eigenvalues * x**2))

    return [(worst(FINAL, halted), worst(halted, halted)) for halted in HALTED]


def draw(errors: dict[str, dict[str, list[float]]]) -> Figure:
    """One panel per condition number."""
    figure = Figure(figsize=(16, 5), layout="constrained")
    number = len(next(iter(errors.values())))
    colors = matplotlib.colormaps["tab20"](np.linspace(0, 1, number))
    for axes, (condition, curves) in zip(
        figure.subplots(1, len(CONDITIONS)), errors.items(), strict=True
    ):
        for color, (name, values) in zip(colors, curves.items(), strict=True):
            style = ":" if "restarted" in name else "-"
            if name == BOUND:
                color, style = "black", "--"
            axes.plot(np.maximum(values, 1e-16), style, color=color, label=name)
        axes.set(yscale="log", xlabel="steps", title=f"condition {float(condition):g}")
        axes.set_ylim(1e-10, 1e3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.axes[0].set_ylabel("‖x_k‖ / ‖x_0‖")
    return figure


def main(_: list[str]) -> None:
    """Iterates every method in float64, draws and keeps."""
    curves: dict[str, dict[str, list[float]]] = {}
    early: dict[str, dict[str, list[tuple[float, float]]]] = {}
    restarts: dict[str, dict[str, int]] = {}
    with jax.enable_x64(True):
        for condition in CONDITIONS:
            eigenvalues = jnp.logspace(-np.log10(condition), 0, COORDINATES)
            num_steps = round(_STEPS.value * np.sqrt(condition))
            measured = {
                name: errors(method, eigenvalues, num_steps)
                for name, method in methods(condition, num_steps).items()
            }
            table = {name: of for name, (of, _) in measured.items()}
            restarts[f"{condition:g}"] = {
                name: number for name, (_, number) in measured.items() if number is not None
            }
            table[BOUND] = lower_bound(condition, num_steps).tolist()
            curves[f"{condition:g}"] = table
            early[f"{condition:g}"] = {
                name: halted_early(name, condition, eigenvalues) for name in MADE_FOR_FINAL
            }
            print(f"condition {condition:g}")
            for name, values in table.items():
                print(f"  {name:28s} {values[-1]:.2e} after {num_steps} steps")
    shown = {
        condition: {
            name: [float(f"{v:.4g}") for v in values[:: max(1, len(values) // 200)]]
            for name, values in table.items()
        }
        for condition, table in curves.items()
    }
    record: Record = {**provenance.describe(), "steps_over_root": _STEPS.value, "errors": shown}
    record["restarts"] = restarts
    record["halted_early"] = {"num_steps": FINAL, "halted": HALTED, "losses": early}
    path = results.write("quadratics", record)
    draw(curves).savefig(path.with_suffix(".png"), dpi=100)
    print(path)


if __name__ == "__main__":
    cli.run(main)
