"""The benchmark's comparisons: the same meta-gradient in PyTorch's libraries, where installed."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from maml_jax.types import Episode, Params

# PyTorch need not be installed: its modules and tensors have no types here.
Torch = Any
Tensor = Any
Tensors = dict[str, Tensor]
Logits = Callable[[Tensors, Tensor], Tensor]  # (params, images [S, C, H, W]) -> [S, N]
MetaGradientFn = Callable[[], float]  # computes the meta-gradient, returns the mean query loss
# (torch, logits, params, data, number of steps, step size); the data are support images and
# targets, then those of the query.
MakePeer = Callable[[Torch, Logits, Tensors, list[Tensor], int, float], MetaGradientFn]
EPSILON = 1e-3


class Peer(NamedTuple):
    """A library to compare with."""

    make: MakePeer
    packages: tuple[str, ...]  # that it needs
    fused: bool  # whether torch's fused batch norm has the right derivatives in it


def _network(torch: Torch, max_pool: bool, fused: bool) -> Logits:
    """The network, with batch norm by hand where torch.func's derivatives of it are wrong."""
    functional = torch.nn.functional

    def normalize(hidden: Tensor, shift: Tensor) -> Tensor:
        if fused:
            # Without a weight its second derivative fails.
            ones = torch.ones_like(shift)
            return functional.batch_norm(hidden, None, None, ones, shift, True, 0.0, EPSILON)
        mean = hidden.mean((0, 2, 3), keepdim=True)
        variance = ((hidden - mean) ** 2).mean((0, 2, 3), keepdim=True)
        return (hidden - mean) * torch.rsqrt(variance + EPSILON) + shift[:, None, None]

    def logits(params: Tensors, hidden: Tensor) -> Tensor:
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


def _tensors(torch: Torch, params: Params, episodes: Episode) -> tuple[Tensors, list[Tensor]]:
    def tensor(array: Any) -> Tensor:
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
    torch: Torch, logits: Logits, params: Tensors, data: list[Tensor], steps: int, step_size: float
) -> MetaGradientFn:
    """torch.func: vmap over tasks of grad through grad."""
    cross_entropy = torch.nn.functional.cross_entropy

    def loss(adapted: Tensors, frozen: Tensors, images: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits({**adapted, **frozen}, images), targets)

    def query_loss(
        params: Tensors, images: Tensor, targets: Tensor, query: Tensor, query_targets: Tensor
    ) -> Tensor:
        adapted = {name: leaf for name, leaf in params.items() if _adapts(name)}
        frozen = {name: leaf for name, leaf in params.items() if not _adapts(name)}
        for _ in range(steps):
            grads = torch.func.grad(loss)(adapted, frozen, images, targets)
            adapted = {name: leaf - step_size * grads[name] for name, leaf in adapted.items()}
        return loss(adapted, frozen, query, query_targets)

    per_task = torch.func.vmap(torch.func.grad_and_value(query_loss), in_dims=(None, 0, 0, 0, 0))

    def run() -> float:
        grads, losses = per_task(params, *data)
        for leaf in grads.values():
            leaf.mean(0)
        return float(losses.mean().item())

    return run


def autograd_loop(
    torch: Torch, logits: Logits, params: Tensors, data: list[Tensor], steps: int, step_size: float
) -> MetaGradientFn:
    """torch.autograd with create_graph, one task after another."""
    cross_entropy = torch.nn.functional.cross_entropy

    def run() -> float:
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
        total = 0.0
        for images, targets, query, query_targets in zip(*data, strict=True):
            current = dict(leaves)
            adapted = [name for name in current if _adapts(name)]
            for _ in range(steps):
                loss = cross_entropy(logits(current, images), targets)
                grads = torch.autograd.grad(loss, [current[n] for n in adapted], create_graph=True)
                for name, grad in zip(adapted, grads, strict=True):
                    current[name] = current[name] - step_size * grad
            loss = cross_entropy(logits(current, query), query_targets) / len(data[0])
            loss.backward()
            total += loss.item()
        return total

    return run


def _module(torch: Torch, logits: Logits, params: Tensors) -> Any:
    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.params = torch.nn.ParameterDict(params)

        def forward(self, images: Tensor) -> Tensor:
            return logits(self.params, images)

    return Network()


def higher(
    torch: Torch, logits: Logits, params: Tensors, data: list[Tensor], steps: int, step_size: float
) -> MetaGradientFn:
    """higher.innerloop_ctx with SGD; the shifts have a learning rate of 0."""
    library = importlib.import_module("higher")
    cross_entropy = torch.nn.functional.cross_entropy

    def run() -> float:
        network, total = _module(torch, logits, params), 0.0
        groups = [
            {"params": [leaf], "lr": step_size if _adapts(name) else 0.0}
            for name, leaf in network.params.items()
        ]
        optimizer = torch.optim.SGD(groups, lr=step_size)
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
    torch: Torch, logits: Logits, params: Tensors, data: list[Tensor], steps: int, step_size: float
) -> MetaGradientFn:
    """learn2learn's MAML, clone and adapt, which adapts every parameter, the shifts included."""
    library = importlib.import_module("learn2learn")
    cross_entropy = torch.nn.functional.cross_entropy

    def run() -> float:
        maml = library.algorithms.MAML(_module(torch, logits, params), lr=step_size)
        total = 0.0
        for images, targets, query, query_targets in zip(*data, strict=True):
            learner = maml.clone()
            for _ in range(steps):
                learner.adapt(cross_entropy(learner(images), targets))
            loss = cross_entropy(learner(query), query_targets) / len(data[0])
            loss.backward()
            total += loss.item()
        return total

    return run


PEERS = {
    "torch.func, vmap": Peer(torch_func, ("torch",), fused=False),
    "torch.autograd, loop": Peer(autograd_loop, ("torch",), fused=True),
    "higher, loop": Peer(higher, ("torch", "higher"), fused=True),
    "learn2learn, loop": Peer(learn2learn, ("torch", "learn2learn"), fused=True),
}


def available(threads: int) -> tuple[dict[str, str], list[str]]:
    """({package: version}, the packages that cannot be imported and why); sets the threads."""
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
    params: Params,
    episodes: Episode,
    *,
    steps: int,
    step_size: float,
    max_pool: bool,
    installed: dict[str, str],
) -> dict[str, MetaGradientFn]:
    """The meta-gradients that the installed packages allow, by name."""
    if "torch" not in installed:
        return {}
    torch = importlib.import_module("torch")
    tensors, data = _tensors(torch, params, episodes)
    return {
        name: peer.make(
            torch, _network(torch, max_pool, peer.fused), tensors, data, steps, step_size
        )
        for name, peer in PEERS.items()
        if all(package in installed for package in peer.packages)
    }
