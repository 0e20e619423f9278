"""Trainings in two processes, for `test_live_distributed.py`: all functions run in both, and leave files."""

import contextlib
import json
import multiprocessing
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch_operators  # noqa: F401 - for its effect
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import regime_proto
from regime_proto import RegimeError, RegimeWarning
from regime_proto.recording.schedule import Share

WORLD = 2
STEPS = 5
SAMPLES, FEATURES = 6, 5
# Seconds that two processes may take on a busy machine.
LIMIT = 240.0
# What takes long to import, once for all processes.
IMPORTED = ["onnxscript", "torch.distributed.fsdp", "torch.onnx", "regime_proto.adapters.from_torch.follower"]


class Tied(nn.Module):
    """Layers to shard, with a tied weight, both norms, and parameters that two processes cannot share evenly."""

    def __init__(self, norm):
        super().__init__()
        self.embed = nn.Linear(FEATURES, 7)
        self.norm = norm(7)
        self.first = nn.Linear(7, 7, bias=False)
        self.second = nn.Linear(7, 7)
        self.second.weight = self.first.weight
        self.last_norm = nn.LayerNorm(7)
        self.scale = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.head = nn.Linear(7, 3)

    def forward(self, features):
        hidden = torch.relu(self.norm(self.embed(features)))
        hidden = torch.relu(self.second(torch.relu(self.first(hidden))))
        return self.head(torch.relu(self.last_norm(hidden) * self.scale + self.frozen.sum() - 3))


def make(norm=nn.BatchNorm1d):
    torch.manual_seed(0)
    return Tied(norm)


def make_checkpointed():
    model = make()
    model.first, model.head = checkpoint_wrapper(model.first), checkpoint_wrapper(model.head)
    return model


def make_plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 3))


def probe():
    return np.random.default_rng(5).standard_normal((SAMPLES, FEATURES), np.float32)


def run_in_two(folder):
    """Run every function of `TRAININGS` in two processes that train together; a failure in one fails the caller.

    Returns
    -------
    dict of str to list of dict
        What each process said in a function, by its name, which that of its folder is too.
    """
    multiprocessing.set_forkserver_preload(IMPORTED)
    context = mp.start_processes(_run, (folder,), nprocs=WORLD, join=False, start_method="forkserver")
    end = time.monotonic() + LIMIT
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < end, f"hangs: {sorted(path.name for path in folder.iterdir())}"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    said = [json.loads((folder / f"said_by_{rank}.json").read_text()) for rank in range(WORLD)]
    return {name: [one[name] for one in said] for name in said[0]}


def _run(rank, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    said = {}
    for training in TRAININGS:
        own = folder / training.__name__
        own.mkdir(exist_ok=True)
        said[training.__name__] = training(rank, own)
    (folder / f"said_by_{rank}.json").write_text(json.dumps(said))


def train(model, recorder=None, saved=None, *, look="before the pass"):
    """Train, observing every state, and saving it where `saved` is a folder; return the weights at the end, whole."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        # Each process trains on samples of its own.
        generator = torch.Generator().manual_seed(100 * step + dist.get_rank())
        if look == "after an evaluation":
            model.eval()
            with torch.no_grad():
                model(torch.from_numpy(probe()))
            model.train()
        if look != "within the pass":
            observe(recorder, step, model, saved)
        outputs = model(torch.randn(8, FEATURES, generator=generator))
        if look == "within the pass":
            observe(recorder, step, model, saved)
        nn.functional.mse_loss(outputs.float(), torch.randn(8, 3, generator=generator)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return whole(model)


def observe(recorder, step, model, saved):
    if recorder is None:
        return
    recorder.observe(step, epoch=step / 4, loss=0.5)
    recorder.log(score=1.0)
    state = whole(model)
    if dist.get_rank() == 0:
        saved.mkdir(parents=True, exist_ok=True)
        torch.save(state, saved / f"step_{step}.pt")


def whole(model):
    """Return a full state dict; only the first process gets one of a sharded model."""
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    state = get_model_state_dict(bare, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: tensor.clone() for name, tensor in state.items()}


def same(states, others):
    return list(states) == list(others) and all(torch.equal(states[name], others[name]) for name in states)


@contextlib.contextmanager
def counted():
    """Yield a list that grows by one whenever a tensor is summed over the processes by name."""
    calls, all_reduce = [], dist.all_reduce

    def noted(*arguments, **options):
        calls.append(1)
        return all_reduce(*arguments, **options)

    dist.all_reduce = noted
    try:
        yield calls
    finally:
        dist.all_reduce = all_reduce


def error_of(function):
    try:
        function()
    except RegimeError as error:
        return str(error)
    return ""


def shard(model, *, mesh=None, **options):
    """Shard each layer, and the rest with the root."""
    mesh = mesh or init_device_mesh("cpu", (WORLD,))
    for layer in (model.embed, model.head):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def data_parallel(rank, folder):
    """DistributedDataParallel; the recorder is given the wrapper, or what is in it."""
    without = train(DistributedDataParallel(make()))
    said = {}
    for name in ("wrapper", "module"):
        model = DistributedDataParallel(make())
        given = model if name == "wrapper" else model.module
        output = folder / name / f"of_{rank}.h5"
        with regime_proto.record(given, probe(), output) as recorder:
            said[name] = same(train(model, recorder, folder / name / "checkpoints"), without)
            observations = recorder.status().observations
        said[f"{name}, observations"] = observations
    model = make()
    with contextlib.suppress(RegimeError), regime_proto.record(model, probe(), folder / "later.h5") as recorder:
        recorder.observe(0)
        shard(model)
        said["sharded later"] = error_of(lambda: recorder.observe(1))
    return said


LOOKS = {
    "before the pass": (make, {}),
    # In bfloat16 batch normalization does not run on the CPU.
    "after an evaluation": (
        partial(make, nn.LayerNorm),
        {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)},
    ),
    "within the pass": (make_checkpointed, {"reshard_after_forward": False}),
}


def fully_sharded(rank, folder):
    """fully_shard, looked at where its parameters are sharded and where they are not."""
    said = {}
    for look, (maker, options) in LOOKS.items():
        without = train(shard(maker(), **options), look=look)
        model = shard(maker(), **options)
        output = folder / look / f"of_{rank}.h5"
        with (
            regime_proto.record(model, probe(), output, measure=("weights", "active_fraction")) as recorder,
            counted() as calls,
        ):
            said[look] = same(train(model, recorder, folder / look / "checkpoints", look=look), without)
        said[f"{look}, all-reduces"] = len(calls)
    return said


def invalid(rank, folder):
    """A NaN that only the second process holds, in a weight that leads to no mask; at the first look and later."""
    model = shard(make())
    with (
        pytest.warns(RegimeWarning, match="2 observations hold NaN or Inf") if rank == 0 else contextlib.nullcontext(),
        regime_proto.record(model, probe(), folder / f"of_{rank}.h5") as recorder,
    ):
        for step, value in enumerate((float("nan"), 1.0, 2.0, float("inf"), 1.0)):
            if rank == 1:
                with torch.no_grad():
                    model.head.weight.to_local()[0, 0] = value
            recorder.observe(step)
    return {}


def paced(rank, folder):
    """At strides that the process that records chooses; the other one alone would choose to observe every step."""
    model = shard(make())
    now, steps = [0.0], []

    def observed(_):
        now[0] += 0.3

    options = {"every": Share(0.05, lambda: now[0]), "on_observation": observed}
    with regime_proto.record(model, probe(), folder / f"of_{rank}.h5", **options) as recorder:
        for step in range(100):
            if recorder.is_due(step):
                steps.append(step)
            recorder.observe(step)
            now[0] += 1.0
    return {"steps": steps}


MESHES = {"hybrid": make, "replicated": make_plain, "tensor parallel": make_plain}


def meshes(rank, folder):
    """Two copies of shards, weights that are the same in all processes, and weights spread over their columns."""
    two = init_device_mesh("cpu", (WORLD,))
    hybrid = init_device_mesh("cpu", (WORLD, 1), mesh_dim_names=("replicate", "shard"))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    spread = {
        "hybrid": partial(shard, mesh=hybrid),
        "replicated": partial(distribute_module, device_mesh=two),
        "tensor parallel": partial(parallelize_module, device_mesh=two, parallelize_plan=plan),
    }
    for name, maker in MESHES.items():
        model = spread[name](maker())
        with regime_proto.record(
            model, probe(), folder / name / f"of_{rank}.h5", measure=("weights", "active_fraction")
        ) as recorder:
            for step in range(STEPS):
                observe(recorder, step, model, folder / name / "checkpoints")
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(1.1).add_(0.05)
    return {}


def failing(rank, folder):
    """What is not followed; and a model that does not run on the probe, which ends the process that records."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = FullyShardedDataParallel(make(), use_orig_params=True, device_id=torch.device("cpu"))
    said = {"flat": error_of(partial(regime_proto.record, flat, probe(), folder / "run.h5"))}
    wide = np.ones((SAMPLES, FEATURES + 1), np.float32)
    try:
        regime_proto.record(shard(make()), wide, folder / "run.h5")
    except (RegimeError, RuntimeError) as error:
        return {**said, "error": f"{type(error).__name__}: {error}"}
    return said


# The last ends the connection of the two.
TRAININGS = (data_parallel, fully_sharded, invalid, meshes, paced, failing)
