"""The function of a network of torch in float64, its gates as they are or frozen, and what its gates take."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


def wide(model, state):
    """Return a copy of a model in float64 with some weights, whose ReLUs can all be seen."""
    model = copy.deepcopy(model).double()
    model.load_state_dict(
        {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation = lambda values: F.relu(values)
            # The fused inference path calls no ReLU that could be seen.
            module.activation_relu_or_gelu = 0
    return model.eval()


class Function:
    """A state of a model.

    Parameters
    ----------
    model : nn.Module
    state : mapping
    probe : array
    """

    def __init__(self, model, state, probe):
        self._model = wide(model, state)
        given = torch.from_numpy(probe)
        self._probe = given.double() if given.is_floating_point() else given
        self.outputs, self.inputs = self._run(None)

    def frozen(self, masks):
        """Return the outputs with the gates frozen to masks, one after the other as they are called."""
        return self._run(masks)[0]

    @property
    def masks(self):
        return [z > 0 for z in self.inputs]

    def _run(self, masks):
        relu, seen = F.relu, []

        def replaced(z, *arguments, **options):
            seen.append(z.detach())
            return relu(z) if masks is None else z * masks[len(seen) - 1]

        F.relu = replaced
        try:
            with torch.no_grad():
                outputs = self._model(self._probe)
        finally:
            F.relu = relu
        return outputs.flatten(1).numpy(), seen
