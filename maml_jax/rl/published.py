"""Published returns of MAML in reinforcement learning, to be shown beside those of a run.

Read from the result files of the authors' code (github.com/cbfinn/maml_rl): means over 40 test
tasks after 0, 1, 2, … updates.
"""

from typing import NamedTuple

SOURCE = "Finn et al. 2017"


class Published(NamedTuple):
    """Mean returns after 0, 1, 2, … updates, and their standard errors if these are known."""

    mean: tuple[float, ...]
    standard_error: tuple[float, ...] = ()


# Environment -> name of a run or a baseline -> returns. The oracle sees the task and makes none.
PUBLISHED: dict[str, dict[str, Published]] = {
    "navigation": {
        "maml": Published((-40.41, -11.68, -3.33, -3.23, -3.35), (2.04, 1.10, 0.28, 0.29, 0.30)),
        "random": Published((-82.66, -57.96, -53.84, -46.81, -42.91)),
        "oracle": Published((-2.29,), (0.07,)),
    },
    "half_cheetah_direction": {
        "maml": Published((-50.69, 293.19, 313.48, 315.65), (2.93, 8.68, 8.04, 7.06)),
        "pretrained": Published((-43.03, -24.75, -12.85, 19.57)),
        "random": Published((-35.73, 21.83, 62.32, 86.18)),
        "oracle": Published((442.69,), (4.27,)),
    },
    "half_cheetah_velocity": {
        "maml": Published((-129.53, -78.57, -66.62, -60.78), (8.44, 5.03, 4.56, 4.40)),
        "pretrained": Published((-158.00, -135.39, -128.47, -133.61)),
        "random": Published((-254.83, -254.33, -246.79, -230.83)),
        "oracle": Published((-54.47,), (3.54,)),
    },
}
