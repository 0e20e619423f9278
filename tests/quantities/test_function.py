"""Quantities of the function, of what gates take and of what lies between two states: against torch in float64."""

import itertools
import re

import nets
import numpy as np
import pytest
import torch
import transformers
from functions import Function
from nets import save_run
from recording import rows
from torch import nn
from transformers_models import GPT2, IDS

import regime_proto
from regime_proto.conversion.plan import write_program
from regime_proto.quantities.installed import GROUPS, known_quantities

STATES = 5
NETS = {"mlp": (nets.make_mlp, (0, 0)), "conv": (nets.make_conv, (0, 0, 0)), "encoder": (nets.make_encoder, (1,))}
"""With the sample axis of what each gate takes."""
MEASURED = [
    name for name, quantity in known_quantities().items() if not quantity.is_built_in and quantity.needs != ("weights",)
]


@pytest.fixture(scope="module", params=NETS)
def run(request, tmp_path_factory):
    """The states of a net as functions, the sample axes of its gates, and what was measured of it."""
    make, axes = NETS[request.param]
    folder, probe = tmp_path_factory.mktemp(request.param), nets.probe(make())
    states = save_run(folder / "checkpoints", make(), STATES)
    write_program(folder / "checkpoints", model=make(), probe=probe)
    path = regime_proto.convert(folder / "checkpoints", folder / "run.h5", measure=MEASURED, workers=2)
    return [Function(make(), state, probe) for state in states], axes, rows(path)


def by_sample(values, axis):
    return np.moveaxis(values.numpy(), axis, 0).reshape(values.shape[axis], -1)


def parts_of_change(current, other):
    """q, s and t of every sample, by their definition."""
    own, theirs = current.frozen(current.masks), other.frozen(other.masks)
    kept, moved = current.frozen(other.masks), other.frozen(current.masks)
    q, s = 0.5 * (kept - theirs + own - moved), 0.5 * (moved - theirs + own - kept)
    t = own - kept - moved + theirs
    # Patterns first, weights first.
    np.testing.assert_allclose(s - t / 2, moved - theirs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(s + t / 2, own - kept, rtol=1e-9, atol=1e-9)
    return q, s, t


PARTS = ("quantitative_change_l2", "structural_change_l2", "structural_quantitative_dot", "structural_order_l2")
REFERENCES = {"previous": lambda functions, row: functions[row - 1] if row else None}
REFERENCES |= {"first": lambda functions, _: functions[0], "last": lambda functions, _: functions[-1]}


@pytest.mark.parametrize("against", REFERENCES)
def test_structural_and_quantitative_change(run, against):
    functions, _, found = run
    measured = [found[f"quantity_{name}_{against}"] for name in PARTS]
    for row, current in enumerate(functions):
        other = REFERENCES[against](functions, row)
        if other is None:
            assert all(np.isnan(values[row]).all() for values in measured)
            continue
        q, s, t = parts_of_change(current, other)
        # The identity that they are defined by.
        np.testing.assert_allclose(q + s, current.outputs - other.outputs, rtol=1e-12, atol=1e-12)
        norms = [np.linalg.norm(part, axis=1) for part in (q, s, t)]
        expected = (*norms[:2], np.sum(q * s, axis=1), norms[2])
        for values, wanted in zip(measured, expected, strict=True):
            np.testing.assert_allclose(values[row], wanted, rtol=2e-3, atol=2e-6)
        # |q|² + |s|² + 2 q·s is the square of the change.
        whole = measured[0][row] ** 2 + measured[1][row] ** 2 + 2 * measured[2][row]
        change = np.sum((current.outputs - other.outputs) ** 2, axis=1)
        np.testing.assert_allclose(whole, change, rtol=1e-3, atol=1e-10)
    assert np.nanmax(measured[1]) > 1e-4


def test_a_language_model(tmp_path):
    """GPT-2 with ReLU: attention and norms are not frozen, and the identity holds all the same."""
    torch.manual_seed(0)
    model = Logits(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, use_cache=False))).eval()
    random = torch.Generator().manual_seed(0)
    states = [
        {name: tensor + 0.05 * step * torch.randn(tensor.shape, generator=random) for name, tensor in start.items()}
        for step in range(3)
        for start in [model.state_dict()]
    ]
    for state in states:
        # One tensor under two names.
        state["model.lm_head.weight"] = state["model.transformer.wte.weight"]
    found = converted(tmp_path / "run", model, states, IDS, measure="function")
    functions = [Function(model, state, IDS) for state in states]
    for row, current in enumerate(functions):
        for against, other in (("first", functions[0]), ("last", functions[-1])):
            q, s, _ = parts_of_change(current, other)
            np.testing.assert_allclose(q + s, current.outputs - other.outputs, rtol=1e-12, atol=1e-12)
            for name, part in (("quantitative", q), ("structural", s)):
                measured = found[f"quantity_{name}_change_l2_{against}"][row]
                np.testing.assert_allclose(measured, np.linalg.norm(part, axis=1), rtol=2e-3, atol=1e-5)
    assert (found["quantity_structural_change_l2_first"][1:] > 1e-3).all()


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def test_a_state_differs_from_itself_by_nothing(run):
    _, _, found = run
    for name in PARTS:
        assert (found[f"quantity_{name}_first"][0] == 0).all()
        assert (found[f"quantity_{name}_last"][-1] == 0).all()


def test_output_change(run):
    functions, _, found = run
    values = found["quantity_output_change_l2"]
    assert np.isnan(values[0]).all()
    for row, (before, now) in enumerate(itertools.pairwise(functions), start=1):
        np.testing.assert_allclose(values[row], np.linalg.norm(now.outputs - before.outputs, axis=1), rtol=1e-4)


def test_what_gates_take(run):
    functions, axes, found = run
    for row, function in enumerate(functions):
        for layer, (z, axis) in enumerate(zip(function.inputs, axes, strict=True)):
            units = by_sample(z, axis)
            assert found["quantity_preactivation_rms"][row, layer] == pytest.approx(
                np.sqrt(np.mean(units**2)), rel=1e-5
            )
            expected = np.abs(units).min(axis=1)
            np.testing.assert_allclose(found["quantity_margin"][row, layer], expected, rtol=1e-3, atol=2e-6)


def test_what_gates_take_where_tokens_are_padding(tmp_path):
    """Units of padding count neither for the nearest threshold nor for the mean."""
    make, samples = nets.make_encoder, 6
    tokens = nets.probe(make(), samples)
    counted = np.arange(tokens.shape[1]) < np.array([5, 3, 1, 4, 2, 5])[:, None]
    states = save_run(tmp_path / "run", make(), 3)
    write_program(tmp_path / "run", model=make(), probe={"tokens": tokens, "regime_mask": counted})
    found = rows(regime_proto.convert(tmp_path / "run", tmp_path / "run.h5", measure=["margin", "preactivation_rms"]))
    for row, state in enumerate(states):
        [z] = Function(make(), state, tokens).inputs
        units = np.moveaxis(z.numpy(), 1, 0)
        assert units.shape[:2] == counted.shape
        rms = found["quantity_preactivation_rms"][row, 0]
        assert rms == pytest.approx(np.sqrt(np.mean(units[counted] ** 2)), rel=1e-5)
        assert rms != pytest.approx(np.sqrt(np.mean(units**2)), rel=1e-3)
        nearest = np.where(counted[..., None], np.abs(units), np.inf).min(axis=(1, 2))
        np.testing.assert_allclose(found["quantity_margin"][row, 0], nearest, rtol=1e-3, atol=2e-6)
        assert (nearest > np.abs(units).min(axis=(1, 2))).any()


def test_fingerprints(run):
    """The input of the last linear layer, which all three nets call their head or the end of their body."""
    functions, _, found = run
    heads = [fingerprints(function) for function in functions]
    for row, (before, now) in enumerate(itertools.pairwise(heads), start=1):
        cosines = np.sum(before * now, axis=1) / np.linalg.norm(before, axis=1) / np.linalg.norm(now, axis=1)
        assert found["quantity_fingerprint_cosine"][row] == pytest.approx(cosines.mean(), abs=1e-6)
        pooled = np.sum(before * now) / np.linalg.norm(before) / np.linalg.norm(now)
        assert found["quantity_fingerprint_cosine_pooled"][row] == pytest.approx(pooled, abs=1e-6)
    assert np.isnan(found["quantity_fingerprint_cosine"][0])


def fingerprints(function):
    seen = []
    last = [module for module in function._model.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().numpy()))
    function.frozen(function.masks)
    handle.remove()
    return seen[-1].reshape(len(seen[-1]), -1, seen[-1].shape[-1]).mean(axis=1)


def test_every_quantity_has_an_oracle():
    elsewhere = {"active_fraction", "weight_distance_l2"}
    here = {
        *(f"{name}_{against}" for name in ("quantitative_change_l2", "structural_change_l2") for against in REFERENCES),
        *(f"structural_quantitative_dot_{against}" for against in REFERENCES),
        *(f"structural_order_l2_{against}" for against in REFERENCES),
        *("output_change_l2", "preactivation_rms", "margin", "fingerprint_cosine", "fingerprint_cosine_pooled"),
        "interior_flips",
    }
    assert set(MEASURED) | elsewhere == here | elsewhere


# Between two states


def test_points_between_states_go_with_what_looks_there(tmp_path):
    with pytest.raises(regime_proto.RegimeError, match=r"--interior-points 4: applies to interior_flips, which is not"):
        regime_proto.convert(tmp_path, tmp_path / "run.h5", measure="margin", interior_points=4)


@pytest.mark.parametrize("points", [1, 3, 7])
def test_interior_flips(tmp_path, points):
    """Gates that leave their region between two far states and are back at the second."""
    make = nets.make_mlp
    probe = nets.probe(make())
    random = torch.Generator().manual_seed(0)
    states = [model.state_dict() for model in nets.train(make(), 2)]
    for step in range(4):
        state = {
            name: tensor + 0.4 * torch.randn(tensor.shape, generator=random) if "weight" in name else tensor.clone()
            for name, tensor in states[0].items()
        }
        states.append(state)
        torch.save(state, tmp_path / f"step_{step}.pt")
    states = states[2:]
    write_program(tmp_path, model=make(), probe=probe)
    path = regime_proto.convert(tmp_path, tmp_path / "run.h5", measure="interior_flips", interior_points=points)
    found = rows(path)["quantity_interior_flips"]
    assert np.isnan(found[0]).all()
    functions = [Function(make(), state, probe) for state in states]
    for row, (before, now) in enumerate(itertools.pairwise(states), start=1):
        between = [
            Function(make(), lerp(before, now, (point + 1) / (points + 1)), probe).masks for point in range(points)
        ]
        ends = zip(functions[row - 1].masks, functions[row].masks, strict=True)
        for layer, (start, end) in enumerate(ends):
            left = torch.stack([masks[layer] != end for masks in between]).any(dim=0) & (start == end)
            np.testing.assert_allclose(found[row, layer], left.sum(dim=1).numpy(), atol=1)
    assert np.nansum(found) > 20
    other = {"measure": "interior_flips", "interior_points": points + 2}
    said = (
        rf"exists with interior_flips at {points} points between two checkpoints, but {points + 2} were requested; "
        ".*--overwrite"
    )
    with pytest.raises(regime_proto.RegimeError, match=said):
        regime_proto.convert(tmp_path, path, **other)
    # Without a number the run goes on with its own.
    torch.save(states[0], tmp_path / "step_4.pt")
    with pytest.raises(regime_proto.RegimeError, match=said):
        regime_proto.convert(tmp_path, path, **other)
    regime_proto.convert(tmp_path, path)
    again = rows(path)["quantity_interior_flips"]
    np.testing.assert_array_equal(again[: len(found)], found)
    assert len(again) == len(found) + 1
    with regime_proto.open_trajectory(path) as trajectory:
        assert f"(N = {points})" in trajectory["quantity_interior_flips"].attrs["definition"]


def lerp(before, now, part):
    return {
        name: before[name] + part * (now[name] - before[name]) if now[name].is_floating_point() else now[name]
        for name in now
    }


# Known answers


def converted(folder, model, states, probe, **options):
    folder.mkdir()
    for step, state in enumerate(states):
        torch.save(state, folder / f"step_{step}.pt")
    write_program(folder, model=model, probe=probe)
    return rows(regime_proto.convert(folder, folder / "run.h5", **options))


def changed(model, names, by=0.1):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in names:
        state[name] = state[name] + by
    return state


def test_equal_patterns_leave_nothing_to_structure(tmp_path):
    """Only the last layer moves, behind all gates."""
    model = nets.make_mlp()
    states = [model.state_dict(), changed(model, ["body.8.weight", "body.8.bias"])]
    found = converted(tmp_path / "run", model, states, nets.probe(model), measure="function")
    assert (found["quantity_structural_change_l2_first"] == 0).all()
    assert (found["quantity_structural_change_l2_last"] == 0).all()
    change = found["quantity_output_change_l2"][1]
    assert (change > 0.1).all()
    np.testing.assert_array_equal(found["quantity_quantitative_change_l2_first"][1], change)


def test_units_that_changed_places_change_the_function_by_nothing(tmp_path):
    """The outputs are the same, and yet both parts are there: patterns and weights moved, each against the other."""
    model = nets.make_mlp()
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    permuted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        permuted[f"body.{name}"] = permuted[f"body.{name}"][order]
    permuted["body.4.weight"] = permuted["body.4.weight"][:, order]
    found = converted(tmp_path / "run", model, [model.state_dict(), permuted], nets.probe(model), measure="function")
    assert (found["quantity_output_change_l2"][1] < 1e-5).all()
    q, s = (found[f"quantity_{part}_change_l2_first"][1] for part in ("quantitative", "structural"))
    assert (q > 1e-2).all()
    np.testing.assert_allclose(q, s, rtol=1e-3)
    np.testing.assert_allclose(found["quantity_structural_quantitative_dot_first"][1], -q * s, rtol=1e-3)


def test_a_network_whose_gates_never_close_is_linear(tmp_path):
    """All that changes is quantity."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with torch.no_grad():
        model[0].bias.fill_(100)
    states = [model.state_dict(), changed(model, ["0.weight", "2.weight"])]
    probe = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    found = converted(tmp_path / "run", model, states, probe, measure="function")
    assert (found["quantity_structural_change_l2_first"] == 0).all()
    np.testing.assert_array_equal(
        found["quantity_quantitative_change_l2_first"][1], found["quantity_output_change_l2"][1]
    )


def test_a_dead_layer_and_a_constant_output(tmp_path):
    """No unit of the only gate is ever on; then the outputs are the last bias."""
    model = nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].bias.fill_(-100)
    states = [model.state_dict(), changed(model, ["0.weight"])]
    probe = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    found = converted(tmp_path / "run", model, states, probe, measure=["function", "patterns"])
    assert (found["quantity_output_change_l2"][1] == 0).all()
    assert (found["quantity_structural_change_l2_last"] == 0).all()
    assert np.isnan(found["quantity_fingerprint_cosine"]).all()
    assert (found["quantity_margin"] > 90).all()
    assert (found["quantity_interior_flips"][1] == 0).all()


def test_states_that_hold_nan(tmp_path):
    """Such a row holds NaN, and the others what they would."""
    model = nets.make_mlp()
    broken = changed(model, ["body.0.weight"], by=float("nan"))
    states = [model.state_dict(), broken, changed(model, ["body.0.weight"])]
    options = {"measure": ["function", "patterns"]}
    with pytest.warns(regime_proto.RegimeWarning, match="NaN"):
        found = converted(tmp_path / "run", model, states, nets.probe(model), **options)
    plain = converted(tmp_path / "plain", model, [states[0], states[2]], nets.probe(model), **options)
    for name in ("quantity_structural_change_l2_first", "quantity_quantitative_change_l2_last"):
        assert np.isnan(found[name][1]).all()
        np.testing.assert_array_equal(found[name][[0, 2]], plain[name])
    for number, damaged in enumerate(([broken, states[0]], [states[0], broken])):
        with pytest.raises(
            regime_proto.RegimeError, match="holds NaN or Inf, so other states cannot be compared with it"
        ):
            converted(tmp_path / f"damaged-{number}", model, damaged, nets.probe(model), **options)
    # What is advised works.
    (tmp_path / "long").mkdir()
    for end, number in (("first", 0), ("last", 3)):
        three = [model.state_dict(), changed(model, ["body.0.weight"]), changed(model, ["body.4.weight"])]
        three.insert(number, broken)
        said = (
            r"leave the checkpoint out \(--steps (\d:\d)\), or choose quantities with --measure that are not "
            "compared with the "
        )
        with pytest.raises(regime_proto.RegimeError, match=f"{said}{end}") as caught:
            converted(tmp_path / "long" / end, nets.make_mlp(), three, nets.probe(model), measure="all")
        [steps] = re.findall(r"--steps (\d:\d)", str(caught.value))
        folder = tmp_path / "long" / end
        found = rows(regime_proto.convert(folder, folder / "run.h5", measure="all", steps=steps))
        assert found["valid"].tolist() == [1, 1, 1]


# What a program cannot give


def refused(folder, model, probe, measure):
    states = [model.state_dict(), changed(model, [next(iter(model.state_dict()))])]
    with pytest.raises(regime_proto.RegimeError) as caught:
        converted(folder, model, states, probe, measure=measure)
    assert not (folder / "run.h5").exists()
    return str(caught.value)


class Classes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x):
        return self.layers(x).argmax(1)


def test_outputs_that_are_whole_numbers(tmp_path):
    probe = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    said = refused(tmp_path / "one", Classes().eval(), probe, "output_change_l2")
    assert "--measure output_change_l2: output " in said
    assert "is of type int64, not real numbers" in said
    # In a group they are left out, and the others measured.
    model = Classes().eval()
    states = [model.state_dict(), changed(model, ["layers.0.weight"])]
    with pytest.warns(regime_proto.RegimeWarning, match="not measured: output_change_l2, .* is of type int64"):
        found = converted(tmp_path / "group", model, states, probe, measure="function")
    assert "quantity_fingerprint_cosine" in found
    assert "quantity_output_change_l2" not in found


def test_no_gate_that_can_be_frozen(tmp_path):
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)).eval()
    probe = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    states = [model.state_dict(), changed(model, ["0.weight"])]
    with pytest.raises(
        regime_proto.RegimeError, match=r"no tracked gate can be frozen: all are smooth, for example .* \(Gelu\)"
    ):
        converted(tmp_path / "run", model, states, probe, measure="structural_change_l2_first", gates=["kind:smooth"])


def test_an_output_of_all_samples_together(tmp_path):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))

        def forward(self, x):
            return self.layers(x).mean()

    probe = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    assert "has no axis of 4 samples" in refused(tmp_path / "run", Mean().eval(), probe, "output_change_l2")


# The last state


def test_a_run_that_has_grown_is_another_where_states_are_held_against_the_last(tmp_path):
    model = nets.make_mlp()
    states = [one.state_dict() for one in nets.train(model, 1)]
    folder = tmp_path / "run"
    options = {"measure": "structural_change_l2_last"}
    states = [model.state_dict(), changed(model, ["body.0.weight"]), changed(model, ["body.4.weight"])]
    first = converted(folder, nets.make_mlp(), states, nets.probe(model), **options)
    # Again, and without saying so: it is there already.
    regime_proto.convert(folder, folder / "run.h5", **options)
    regime_proto.convert(folder, folder / "run.h5")
    np.testing.assert_array_equal(
        rows(folder / "run.h5")["quantity_structural_change_l2_last"], first["quantity_structural_change_l2_last"]
    )
    torch.save(changed(model, ["body.0.weight"], by=0.3), folder / "step_3.pt")
    for again in (options, {}):
        with pytest.raises(
            regime_proto.RegimeError, match="the last checkpoint differs, and these quantities compare every state"
        ):
            regime_proto.convert(folder, folder / "run.h5", **again)
    regime_proto.convert(folder, folder / "run.h5", **options, overwrite=True)
    assert (rows(folder / "run.h5")["quantity_structural_change_l2_last"][-1] == 0).all()


def test_groups():
    """Every quantity is in a group of its kind; against the observation before, by name only."""
    in_groups = {
        name
        for name, quantity in known_quantities().items()
        if any(GROUPS[word](quantity) for word in ("weights", "patterns", "function"))
    }
    apart = {name for name, quantity in known_quantities().items() if quantity.needs == ("outputs", "frozen")}
    assert set(known_quantities()) - in_groups == {name for name in apart if name.endswith("_previous")}
