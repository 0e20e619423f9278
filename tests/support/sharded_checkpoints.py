"""Distributed checkpoints that two processes save together."""

import os
import warnings

import nets
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

STATES = 5


def train_in_two(rank, folder):
    """Train with FSDP2 in one of two processes, and save what each holds, and the whole beside it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = nets.make_mlp()
    for layer in model.body:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters())
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 12, generator=generator)
    for step in range(0, 10 * STATES, 10):
        content = {"model": model.state_dict(), "opt": optimizer.state_dict(), "step": step, "epoch": step / 20}
        dcp.save(content, checkpoint_id=f"{folder}/dcp/{step}")
        whole = {
            name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            for name, tensor in model.state_dict().items()
        }
        if rank == 0:
            torch.save(whole, f"{folder}/plain/step_{step}.pt")
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    dist.destroy_process_group()
