"""Exports a net of the tests once, where the export is not what is tested."""

import nets
import pytest

from regime_proto.adapters.from_torch import exporter as torch_export

_exported = {}


@pytest.fixture(scope="module")
def nets_are_exported_once(request):
    """Export a net once for probes of one kind, in a module that tests what an export is used for.

    This goes for nets of `nets`, of `distributed_training`, of the module itself, and of torch's layers. An export
    depends on their layers, on the names, types and sharing of the tensors, and on the probe's shape.
    """
    own = {nets.__name__, "distributed_training", request.module.__name__}
    export_both = torch_export.export_both

    def once(model, probe, **options):
        modules = {type(module).__module__ for module in model.modules()}
        if options or not all(name in own or name.startswith("torch.nn.modules.") for name in modules):
            return export_both(model, probe, **options)
        arrays = [(array.dtype, array.shape) for array in probe.arrays]
        key = (repr(model), *_tensors(model), probe.names, *arrays)
        if key not in _exported:
            _exported[key] = export_both(model, probe)
        return _exported[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_export, "export_both", once)
        yield


def _tensors(model):
    """Return what an export tells of tensors, by name, tied ones by the same number."""
    numbers = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        number = numbers.setdefault(id(tensor), len(numbers))
        yield name, number, tensor.dtype, tensor.shape, tensor.requires_grad
