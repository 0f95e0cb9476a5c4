"""The benchmark's comparisons: the same meta-gradient in PyTorch's libraries, where installed."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

EPSILON = 1e-3
MetaGradientFn = Callable[[], float]  # computes the meta-gradient, returns the mean query loss


def _network(torch: Any, max_pool: bool, fused: bool) -> Callable[[Any, Any], Any]:
    """logits(params, images [S, C, H, W]); batch norm by hand where torch.func's is wrong."""
    functional = torch.nn.functional

    def normalize(hidden: Any, shift: Any) -> Any:
        if fused:
            # Without a weight its second derivative fails.
            ones = torch.ones_like(shift)
            return functional.batch_norm(hidden, None, None, ones, shift, True, 0.0, EPSILON)
        mean = hidden.mean((0, 2, 3), keepdim=True)
        variance = ((hidden - mean) ** 2).mean((0, 2, 3), keepdim=True)
        return (hidden - mean) * torch.rsqrt(variance + EPSILON) + shift[:, None, None]

    def logits(params: Any, hidden: Any) -> Any:
        for block in range(4):
            kernel = params[f"kernel_{block}"]
            if max_pool:
                hidden = functional.conv2d(hidden, kernel, padding=1)
            else:
                # SAME with stride 2: an even image is padded after its last row and column only.
                odd = hidden.shape[-1] % 2
                hidden = functional.pad(hidden, (odd, 1, odd, 1))
                hidden = functional.conv2d(hidden, kernel, stride=2)
            hidden = functional.relu(normalize(hidden, params[f"shift_{block}"]))
            if max_pool:
                hidden = functional.max_pool2d(hidden, 2)
        features = hidden.permute(0, 2, 3, 1).flatten(1) if max_pool else hidden.mean((2, 3))
        return features @ params["head"] + params["bias"]

    return logits


def _tensors(torch: Any, params: Any, episodes: Any) -> tuple[dict[str, Any], list[Any]]:
    def tensor(array: Any) -> Any:
        return torch.tensor(np.array(array))

    converted = {
        "head": tensor(params["head"]["kernel"]),
        "bias": tensor(params["head"]["bias"]),
    }
    for block in range(4):
        kernel = np.transpose(params[f"conv_{block}"]["kernel"], (3, 2, 0, 1))
        converted[f"kernel_{block}"] = tensor(np.ascontiguousarray(kernel))
        converted[f"shift_{block}"] = tensor(params[f"norm_{block}"]["shift"])
    data = []
    for examples in episodes:
        images = np.ascontiguousarray(np.moveaxis(np.asarray(examples.inputs), -1, 2))
        data += [tensor(images), tensor(examples.targets).long()]
    return converted, data


def _adapts(name: str) -> bool:
    return not name.startswith("shift")


def torch_func(
    torch: Any, logits: Any, params: Any, data: Any, steps: int, rate: float
) -> MetaGradientFn:
    """torch.func: vmap over tasks of grad through grad."""
    cross_entropy = torch.nn.functional.cross_entropy

    def loss(moving: Any, fixed: Any, images: Any, targets: Any) -> Any:
        return cross_entropy(logits({**moving, **fixed}, images), targets)

    def query_loss(params: Any, images: Any, targets: Any, query: Any, query_targets: Any) -> Any:
        moving = {name: leaf for name, leaf in params.items() if _adapts(name)}
        fixed = {name: leaf for name, leaf in params.items() if not _adapts(name)}
        for _ in range(steps):
            grads = torch.func.grad(loss)(moving, fixed, images, targets)
            moving = {name: leaf - rate * grads[name] for name, leaf in moving.items()}
        return loss(moving, fixed, query, query_targets)

    per_task = torch.func.vmap(torch.func.grad_and_value(query_loss), in_dims=(None, 0, 0, 0, 0))

    def run() -> float:
        grads, losses = per_task(params, *data)
        for leaf in grads.values():
            leaf.mean(0)
        return losses.mean().item()

    return run


def _leaves(params: Any) -> dict[str, Any]:
    return {name: leaf.clone().requires_grad_() for name, leaf in params.items()}


def autograd_loop(
    torch: Any, logits: Any, params: Any, data: Any, steps: int, rate: float
) -> MetaGradientFn:
    """torch.autograd with create_graph, one task after another."""
    cross_entropy = torch.nn.functional.cross_entropy

    def run() -> float:
        leaves, total = _leaves(params), 0.0
        for images, targets, query, query_targets in zip(*data, strict=True):
            current = dict(leaves)
            moving = [name for name in current if _adapts(name)]
            for _ in range(steps):
                loss = cross_entropy(logits(current, images), targets)
                grads = torch.autograd.grad(loss, [current[n] for n in moving], create_graph=True)
                for name, grad in zip(moving, grads, strict=True):
                    current[name] = current[name] - rate * grad
            loss = cross_entropy(logits(current, query), query_targets) / len(data[0])
            loss.backward()
            total += loss.item()
        return total

    return run


def _module(torch: Any, logits: Any, params: Any) -> Any:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moving = torch.nn.ParameterDict(params)

        def forward(self, images: Any) -> Any:
            return logits(self.moving, images)

    return Network()


def higher(
    torch: Any, logits: Any, params: Any, data: Any, steps: int, rate: float
) -> MetaGradientFn:
    """higher.innerloop_ctx with SGD; zero rate for the shifts."""
    library = importlib.import_module("higher")
    cross_entropy = torch.nn.functional.cross_entropy

    def run() -> float:
        network, total = _module(torch, logits, params), 0.0
        groups = [
            {"params": [leaf], "lr": rate if _adapts(name) else 0.0}
            for name, leaf in network.moving.items()
        ]
        optimizer = torch.optim.SGD(groups, lr=rate)
        for images, targets, query, query_targets in zip(*data, strict=True):
            with library.innerloop_ctx(network, optimizer, copy_initial_weights=False) as inner:
                adapted, inner_optimizer = inner
                for _ in range(steps):
                    inner_optimizer.step(cross_entropy(adapted(images), targets))
                loss = cross_entropy(adapted(query), query_targets) / len(data[0])
                loss.backward()
                total += loss.item()
        return total

    return run


def learn2learn(
    torch: Any, logits: Any, params: Any, data: Any, steps: int, rate: float
) -> MetaGradientFn:
    """learn2learn's MAML, clone and adapt; it moves every parameter, the shifts too."""
    library = importlib.import_module("learn2learn")
    cross_entropy = torch.nn.functional.cross_entropy

    def run() -> float:
        maml, total = library.algorithms.MAML(_module(torch, logits, params), lr=rate), 0.0
        for images, targets, query, query_targets in zip(*data, strict=True):
            learner = maml.clone()
            for _ in range(steps):
                learner.adapt(cross_entropy(learner(images), targets))
            loss = cross_entropy(learner(query), query_targets) / len(data[0])
            loss.backward()
            total += loss.item()
        return total

    return run


# name -> (function, packages it needs, whether torch's fused batch norm has the right derivatives)
PEERS: dict[str, tuple[Callable[..., MetaGradientFn], tuple[str, ...], bool]] = {
    "torch.func, vmap": (torch_func, ("torch",), False),
    "torch.autograd, loop": (autograd_loop, ("torch",), True),
    "higher, loop": (higher, ("torch", "higher"), True),
    "learn2learn, loop": (learn2learn, ("torch", "learn2learn"), True),
}


def available(threads: int) -> tuple[dict[str, str], list[str]]:
    """({package: version}, names of the packages that cannot be imported); sets the threads."""
    versions, missing = {}, []
    for package in ("torch", "higher", "learn2learn"):
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            missing.append(f"{package} ({error})")
        else:
            versions[package] = getattr(module, "__version__", "?")
    if "torch" in versions:
        importlib.import_module("torch").set_num_threads(threads)
    return versions, missing


def make_peers(
    params: Any, episodes: Any, *, steps: int, rate: float, max_pool: bool, installed: Any
) -> dict[str, MetaGradientFn]:
    """The meta-gradients that can be had with the installed packages, by name."""
    if "torch" not in installed:
        return {}
    torch = importlib.import_module("torch")
    converted, data = _tensors(torch, params, episodes)
    return {
        name: make(torch, _network(torch, max_pool, fused), converted, data, steps, rate)
        for name, (make, needs, fused) in PEERS.items()
        if all(package in installed for package in needs)
    }
