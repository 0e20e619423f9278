"""The order of checkpoints, from what they say of themselves or from their names."""

import itertools
import random
import re
import shlex
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_proto.checkpoints.ordering import by_pattern, order, without_pointers
from regime_proto.checkpoints.payload import Label
from regime_proto.checkpoints.step_in_name import is_pointer
from regime_proto.schema.errors import RegimeError


def ordered(labels):
    """Order files given as name → label; return names with steps, kind, and how many files were looked into."""
    looked = []

    def peek(path):
        looked.append(path)
        return labels[path.name]

    found = order([Path(name) for name in labels], peek)
    return {path.name: step for path, step in found.steps.items()}, found.kind, looked


@pytest.mark.parametrize(
    ("labels", "expected", "kind"),
    [
        ({"step_10.pt": Label(), "step_9.pt": Label()}, {"step_9.pt": 9, "step_10.pt": 10}, "step"),
        ({"b.pt": Label(step=1), "a.pt": Label(step=2)}, {"b.pt": 1, "a.pt": 2}, "step"),
        ({"m_1.pt": Label(step=20), "m_2.pt": Label(step=10)}, {"m_2.pt": 10, "m_1.pt": 20}, "step"),
        ({"step_1.pt": Label(step=20), "step_2.pt": Label(step=10)}, {"step_2.pt": 10, "step_1.pt": 20}, "step"),
        ({"epoch=1-step=40.ckpt": Label(), "epoch=0-step=20.ckpt": Label()},
         {"epoch=0-step=20.ckpt": 20, "epoch=1-step=40.ckpt": 40}, "step"),
        ({"a.pt": Label(epoch=2), "b.pt": Label(epoch=1)}, {"b.pt": 1, "a.pt": 2}, "epoch"),
        ({"epoch2.pt": Label(), "epoch10.pt": Label()}, {"epoch2.pt": 2, "epoch10.pt": 10}, "epoch"),
        ({"run3_2.pt": Label(), "run3_10.pt": Label()}, {"run3_2.pt": 2, "run3_10.pt": 10}, "ordinal"),
        ({"run_2.pt": Label(epoch=1), "run_10.pt": Label(epoch=1)}, {"run_2.pt": 2, "run_10.pt": 10}, "ordinal"),
        ({"iter_00005.pth": Label(), "iter_00003.pth": Label()}, {"iter_00003.pth": 3, "iter_00005.pth": 5}, "step"),
    ],
)  # fmt: skip
def test_order(labels, expected, kind):
    found, found_kind, _ = ordered(labels)
    assert list(found.items()) == list(expected.items())
    assert found_kind == kind


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=30), st.randoms())
def test_never_lexicographic(steps, random):
    names = [f"step_{step}.pt" for step in steps]
    random.shuffle(names)
    found, _, looked = ordered({name: Label() for name in names})
    assert list(found.values()) == sorted(steps)
    assert len(looked) <= 3


def test_files_that_say_nothing_are_not_all_looked_into():
    found, kind, looked = ordered({f"net_{number}.pt": Label() for number in range(100)})
    assert list(found.values()) == list(range(100))
    assert kind == "ordinal"
    assert len(looked) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"step_5.pt": Label(), "step_05.pt": Label()}, "both have step 5"),
        ({"a.pt": Label(step=3), "b.pt": Label(step=3)}, "both have step 3"),
        ({"a.pt": Label(epoch=3), "b.pt": Label(epoch=3)}, "both have epoch 3"),
        ({"net_7_v2.pt": Label(), "net_7_v3_v.pt": Label(), "net_8_v2.pt": Label()}, "both have ordinal 2"),
        ({"model_7.pt": Label(), "weights_7.pt": Label()}, r"2 naming schemes .model_7.pt, weights_7.pt."),
        ({"step_1.pt": Label(epoch=2), "step_2.pt": Label(epoch=1)},
         "payload of step_1.pt has epoch 2 and that of step_2.pt 1, but a step in the file name gives the opposite"),
        ({"seed_1_step_5.pt": Label(step=5), "seed_2_step_6.pt": Label(step=7)}, "differ in 'seed'"),
        ({f"stage{stage}-{step}.pt": Label(step=step + stage) for stage in (1, 2) for step in (100, 200)},
         "the number after 'stage' .* falls and rises with the steps in the payloads"),
        ({"good_1.pt": Label(), "weights.pt": Label()}, "weights.pt: no step in the payload and no number"),
        ({"loss_0.5.pt": Label(), "loss_0.25.pt": Label()}, "no number in the name that could count steps"),
    ],
)  # fmt: skip
def test_no_order(labels, message):
    with pytest.raises(RegimeError, match=message):
        ordered(labels)


@pytest.mark.parametrize(
    "name",
    [
        "last.ckpt", "best.pt", "model_best.pth", "latest.pt", "epoch=3-v1.ckpt", "final.pt", "last.pth.tar",
        "model_best.pth.tar", "checkpoint.best_loss_3.21.pt", "run.last",
    ],
)  # fmt: skip
def test_pointers(name):
    assert is_pointer(name)


@pytest.mark.parametrize("name", ["step_1.pt", "blast_3.pt", "bestow_1.pt", "net-v1_step_3.pt"])
def test_no_pointers(name):
    assert not is_pointer(name)


def ordered_names(names):
    """Order names as a directory is ordered, and return the sequence, what is counted, and the values."""
    kept, pointers = without_pointers(names)
    found = order(kept, beside=pointers)
    return list(found.steps), found.kind, list(found.steps.values())


PYTHIA = [0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)]
PUBLISHED = {
    "Pythia": ([f"step{step}" for step in PYTHIA], "step", PYTHIA),
    "OLMo": ([f"step{step}-tokens{step * 4 // 1000}B" for step in range(0, 9000, 500)], "step", range(0, 9000, 500)),
    "BLOOM": ([f"global_step{step}" for step in (1000, 10_000, 100_000)], "step", (1000, 10_000, 100_000)),
    "SmolLM": ([f"step-{step}" for step in (20_000, 40_000, 100_000)], "step", (20_000, 40_000, 100_000)),
    "Amber": ([f"ckpt_{number:03}" for number in range(359)], "ordinal", range(359)),
    "MultiBERTs": ([f"multiberts-seed_0-step_{k}k" for k in (0, 20, 200)], "step", (0, 20_000, 200_000)),
    "SparseLLM": ([f"relu-{tokens}B" for tokens in (5, 10, 100)], "ordinal", (5 * 10**9, 10**10, 10**11)),
    "ignite": ([f"best_model_{epoch}_neg_loss=-0.{10 - epoch}234.pt" for epoch in (1, 2, 9)], "ordinal", (1, 2, 9)),
    "ignite, steps": ([f"checkpoint_{step}.pt" for step in (90, 180, 900)], "ordinal", (90, 180, 900)),
    "skorch": ([f"params_epoch{epoch}.pt" for epoch in (1, 5, 10)], "epoch", (1, 5, 10)),
    "mmengine": ([f"iter_{step}.pth" for step in (500, 1000, 5000)], "step", (500, 1000, 5000)),
    "mmengine, epochs": ([f"epoch_{epoch}.pth" for epoch in (1, 2, 12)], "epoch", (1, 2, 12)),
    "timm": ([f"checkpoint-{epoch}.pth.tar" for epoch in (0, 2, 12)], "ordinal", (0, 2, 12)),
    "fairseq": ([f"checkpoint{epoch}.pt" for epoch in (1, 2, 10)], "ordinal", (1, 2, 10)),
    "fairseq, updates": (["checkpoint_1_8.pt", "checkpoint_1_16.pt", "checkpoint_2_24.pt"], "ordinal", (8, 16, 24)),
    "YOLO": ([f"epoch{epoch}.pt" for epoch in (0, 5, 10)], "epoch", (0, 5, 10)),
    "Keras": ([f"weights.{epoch:02}-0.{99 - epoch}.keras" for epoch in (1, 2, 10)], "ordinal", (1, 2, 10)),
    "Keras, dots": ([f"weights.{epoch:02}.0.{99 - epoch}.h5" for epoch in (1, 2, 10)], "ordinal", (1, 2, 10)),
    "Lightning": ([f"epoch={epoch}-step={epoch * 20}-val_loss=0.{90 - epoch}.ckpt" for epoch in (1, 2, 10)], "step",
                  (20, 40, 200)),
    "two callbacks of Lightning": (["epoch=0-step=10.ckpt", "epoch=0-step=20-val_loss=0.9.ckpt", "epoch=1-step=30.ckpt",
                                    "epoch=1-step=40-val_loss=0.1.ckpt"], "step", (10, 20, 30, 40)),
    "stable-baselines": ([f"rl_model_{step}_steps.zip" for step in (500, 1000, 10_000)], "step", (500, 1000, 10_000)),
    "thousands in words": (["step_500", "step_1k", "step_1.5k", "step_2k", "step_10k", "step_1M"], "step",
                           (500, 1000, 1500, 2000, 10_000, 10**6)),
    "thousands by commas": (["step_500", "step_1,000", "step_10,500"], "step", (500, 1000, 10_500)),
    "thousands by lines": (["step_500", "step_1_000", "step_10_500"], "step", (500, 1000, 10_500)),
    "steps that are counted anew": (["epoch_1_step_500", "epoch_2_step_500", "epoch_3_step_437"], "epoch", (1, 2, 3)),
    "a step behind a constant": (["resnet50-epoch=0-step=10", "resnet50-step=20", "resnet50-step=30"], "step",
                                 (10, 20, 30)),
    "dates": (["run_20240131_step5", "run_20240129_step7", "run_20240130_step10"], "step", (5, 7, 10)),
    "hashes": (["ckpt_5f3a2b1_step5.pt", "ckpt_1234567_step7.pt", "ckpt_abc1234_step10.pt"], "step", (5, 7, 10)),
    "a score without a point": (["net_1_0.97.pt", "net_2_1.pt", "net_3_0.5.pt"], "ordinal", (1, 2, 3)),
    "a score by name": (["net_1_acc=97.pt", "net_2_acc=96.pt", "net_3_acc=95.pt"], "ordinal", (1, 2, 3)),
    "a score behind a step": (["step_100_97.pt", "step_200_96.pt", "step_300_95.pt"], "step", (100, 200, 300)),
    "small numbers": (["net_1_1e-05.pt", "net_2_5e-06.pt", "net_10_1e-07.pt"], "ordinal", (1, 2, 10)),
    "letters": (["e1s500.pt", "e2s1000.pt", "e10s5000.pt"], "ordinal", (500, 1000, 5000)),
    "folders without a suffix": (["ckpt.step_9", "ckpt.step_10"], "step", (9, 10)),
}  # fmt: skip
BESIDE = ("last.ckpt", "best.pt", "model_best.pth.tar", "checkpoint_last.pt", "final", "main")


@pytest.mark.parametrize("scheme", PUBLISHED)
def test_names_of_libraries_and_published_runs(scheme):
    names, kind, values = PUBLISHED[scheme]
    shuffled = [*names, *BESIDE]
    random.Random(0).shuffle(shuffled)
    assert ordered_names(shuffled) == (names, kind, list(values))
    paths = [PurePosixPath("run") / name for name in shuffled]
    assert [path.name for path in ordered_names(paths)[0]] == names


def proposed(message):
    """Return the patterns in a message, as a shell understands them."""
    words = shlex.split(message.partition("choose what counts the checkpoints: ")[2].replace("…", ""))
    return [following for word, following in itertools.pairwise(words) if word == "--step-pattern"]


OLMO_2 = [
    *(f"stage1-step{step}-tokens{step // 250}B" for step in (150, 1000, 2000)),
    *(f"stage2-ingredient{i}-step{step}-tokens3B" for i in (1, 2) for step in (1000, 2000)),
]
UNCLEAR = {
    "two schemes of fairseq": (
        ["checkpoint_1_8.pt", "checkpoint1.pt", "checkpoint_2_16.pt", "checkpoint2.pt"],
        "2 naming schemes",
        {r"^checkpoint(\d+)\.pt$": ["checkpoint1.pt", "checkpoint2.pt"],
         r"^checkpoint_\d+_(\d+)\.pt$": ["checkpoint_1_8.pt", "checkpoint_2_16.pt"]},
    ),
    "epochs and steps": (
        ["epoch_2.pth", "epoch_10.pth", "iter_500.pth", "iter_50.pth"],
        "2 naming schemes",
        {r"^epoch_(?P<epoch>\d+)\.pth$": ["epoch_2.pth", "epoch_10.pth"],
         r"^iter_(\d+)\.pth$": ["iter_50.pth", "iter_500.pth"]},
    ),
    "thousands in some names": (
        ["step500_0", "step1_000_0", "step2_000_0"],
        "2 naming schemes",
        {pattern: ["step1_000_0", "step2_000_0"] for pattern in (r"^step(\d+_000)_\d+$", r"^step(\d+)_\d+_\d+$")},
    ),
    "words that say nothing": (
        ["init_0.pt", "model_2.pt", "model_10.pt"],
        "2 naming schemes",
        {r"^model_(\d+)\.pt$": ["model_2.pt", "model_10.pt"], r"(\d+)\D*$": ["init_0.pt", "model_2.pt", "model_10.pt"]},
    ),
    "OLMo-2": (
        OLMO_2,
        "differ in 'ingredient'",
        {r"^stage1-step(\d+)-tokens.+$": OLMO_2[:3], r"^stage2-ingredient1-step(\d+)-tokens.+$": OLMO_2[3:5],
         r"^stage2-ingredient2-step(\d+)-tokens.+$": OLMO_2[5:]},
    ),
    "two checkpoints of OLMo-2": (
        ["stage1-step150-tokens1B", "stage2-ingredient1-step1000-tokens3B"], "differ in 'ingredient'", {}
    ),
    "two stages": (
        ["phase1-step10", "phase1-step30", "phase2-step20", "phase2-step40"],
        "the number after 'phase' .1, 1, 2 …. falls and rises",
        {rf"^phase{phase}-step(\d+)$": [f"phase{phase}-step{phase * 10}", f"phase{phase}-step{phase * 10 + 20}"]
         for phase in (1, 2)},
    ),
    "two models": (
        ["gen_step_1", "gen_step_3", "disc_step_2", "disc_step_4"],
        "names with different words .gen_step_1, disc_step_2. may belong to several runs",
        {r"^gen_step_(\d+)$": ["gen_step_1", "gen_step_3"], r"^disc_step_(\d+)$": ["disc_step_2", "disc_step_4"],
         r"step_(\d+)": ["gen_step_1", "disc_step_2", "gen_step_3", "disc_step_4"]},
    ),
    "steps before and after a stage had a number": (
        ["step10", "step20", "step30", "stage2-step5", "stage2-step15"],
        "2 naming schemes",
        {r"^step(\d+)$": ["step10", "step20", "step30"], r"^stage2-step(\d+)$": ["stage2-step5", "stage2-step15"]},
    ),
    "words for stages": (
        ["pretrain_step_100", "finetune_step_50"],
        "different words",
        {r"step_(\d+)": ["finetune_step_50", "pretrain_step_100"]},
    ),
    "seeds": (
        ["bert-seed_0-step_20k", "bert-seed_0-step_100k", "bert-seed_1-step_20k", "bert-seed_1-step_100k"],
        "differ in 'seed'",
        {rf"^bert-seed_{seed}-step_(\d+[kKmMbBT]?)$": [f"bert-seed_{seed}-step_20k", f"bert-seed_{seed}-step_100k"]
         for seed in (0, 1)},
    ),
    "seeds alone": (
        ["seed1.pt", "seed2.pt"], "differ in 'seed'", {r"^seed(\d+)\.pt$": ["seed1.pt", "seed2.pt"]}
    ),
    "a counter that begins anew": (
        ["ckpt_1_100.pt", "ckpt_1_200.pt", "ckpt_2_100.pt", "ckpt_2_200.pt"],
        "ckpt_1_100.pt and ckpt_2_100.pt both have ordinal 100 .number 2 in the file name.; move one",
        {rf"^ckpt_{epoch}_(\d+)\.pt$": [f"ckpt_{epoch}_100.pt", f"ckpt_{epoch}_200.pt"] for epoch in (1, 2)},
    ),
    "two integers": (
        ["it's_3_91.pt", "it's_5_90.pt", "it's_7_93.pt"],
        "the number after 's' .3, 5, 7. and number 2 .91, 90, 93. give different orders",
        {r"^it's_(\d+)_\d+\.pt$": ["it's_3_91.pt", "it's_5_90.pt", "it's_7_93.pt"],
         r"^it's_\d+_(\d+)\.pt$": ["it's_5_90.pt", "it's_3_91.pt", "it's_7_93.pt"]},
    ),
    "a letter that may be a unit": (
        ["net_500", "net_1k", "net_10k"],
        "net_1k has a letter after its number, which may be a unit; net_500 has none",
        {r"^net_(\d+[kKmMbBT]?)$": ["net_500", "net_1k", "net_10k"]},
    ),
    "thousands or two numbers": (
        ["step_1_000", "step_2_000", "step_10_000"],
        "step_1_000 may be step 1 or step 1000",
        {r"^step_(\d+_000)$": ["step_1_000", "step_2_000", "step_10_000"],
         r"^step_(\d+)_\d+$": ["step_1_000", "step_2_000", "step_10_000"]},
    ),
    "parts of one": (
        ["model-1-of-2.pt", "model-2-of-2.pt"],
        "differ in 'shard'",
        {r"^model-(\d+)-of-\d+\.pt$": ["model-1-of-2.pt", "model-2-of-2.pt"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_names_that_leave_a_choice_are_refused_with_patterns_that_work(case):
    names, reason, patterns = UNCLEAR[case]
    with pytest.raises(RegimeError, match=reason) as refused:
        ordered_names([*names, *BESIDE])
    assert {
        pattern: list(by_pattern(pattern, [*names, *BESIDE]).steps) for pattern in proposed(str(refused.value))
    } == patterns


def test_patterns_that_fail_beside_pointers_are_not_proposed():
    names = ["init_0.pt", "model_1.pt", "model_2.pt"]
    with pytest.raises(RegimeError, match="naming schemes") as refused:
        order(names, beside=["best_2.pt"])
    assert proposed(str(refused.value)) == [r"^model_(\d+)\.pt$"]


def test_payloads_decide_where_names_do_not():
    steps = {"checkpoint_1_8.pt": 8, "checkpoint1.pt": 10, "checkpoint_2_16.pt": 16, "checkpoint2.pt": 20}
    found, kind, _ = ordered({name: Label(step=steps[name]) for name in sorted(steps)})
    assert (found, kind) == (steps, "step")
    found, kind, _ = ordered({f"net_{epoch}_{99 - epoch}.pt": Label(epoch=epoch) for epoch in (3, 1, 2)})
    assert (list(found.values()), kind) == ([1, 2, 3], "epoch")


def test_the_integer_that_payloads_confirm_is_the_step():
    found, kind, looked = ordered({f"net_{step}_{step // 2}.pt": Label(step=step) for step in range(0, 100, 10)})
    assert (list(found.values()), kind, len(looked)) == (list(range(0, 100, 10)), "step", 3)


def others(labels):
    found = order([Path(name) for name in labels], lambda path: labels[path.name])
    return {other.reason: [path.name for path in other.steps] for other in found.others}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({f"step_{step}.pt": Label() for step in (1, 2, 3)}, {}),
        ({"a.pt": Label(1, 2), "b.pt": Label(2, 1)}, {"the epoch in the payload": ["b.pt", "a.pt"]}),
        ({"step_2": Label(1), "step_1": Label(2)}, {"a step in the file name": ["step_1", "step_2"]}),
        ({"n_1_9": Label(5), "n_2_8": Label(6)}, {"number 2 in the file name": ["n_2_8", "n_1_9"]}),
        ({"b2_step_1.pt": Label(), "b2_step_2.pt": Label()}, {}),
        ({"step_1_9": Label(), "step_2_8": Label()}, {"number 2 in the file name": ["step_2_8", "step_1_9"]}),
    ],
)  # fmt: skip
def test_other_orders(labels, expected):
    assert others(labels) == expected


def test_other_orders_of_a_pattern():
    found = by_pattern(r"_(\d+)\.", ["n_1_9.pt", "n_2_8.pt", "m.pt"])
    assert list(found.steps) == ["n_2_8.pt", "n_1_9.pt"]
    assert [list(other.steps) for other in found.others] == [["n_1_9.pt", "n_2_8.pt"]]


def test_only_best_ones_are_a_sequence():
    names = ["best_model_10_neg_loss=-0.1.pt", "best_model_9_neg_loss=-0.2.pt", "best.pt"]
    assert without_pointers(names) == (names[:2], names[2:])
    assert without_pointers([*names, "net_3.pt"]) == (["net_3.pt"], names)
    assert without_pointers(["best.pt", "last.pt"]) == (["best.pt", "last.pt"], [])


COUNTERS = ["step", "epoch", "iter", "global_step", "ckpt", "net", "model-", "checkpoint", "relu-"]
JOINS = ["", "_", "-", "="]
SUFFIXES = ["", ".pt", ".pth.tar", ".h5", ".weights.h5", ".th"]


def in_order_or_refused(names):
    try:
        return list(order(names).steps), ""
    except RegimeError as error:
        return [], str(error)


def spelled(value, style):
    """Write a counter, in the style where it can be."""
    if style == "units" and value and value % 10**6 == 0:
        return f"{value // 10**6}M"
    if style == "units" and value and value % 1000 == 0:
        return f"{value // 1000}k"
    return (
        f"{value:08}"
        if style == "padded"
        else f"{value:,}"
        if style == "commas"
        else f"{value:_}"
        if style == "lines"
        else str(value)
    )


@st.composite
def counted(draw, styles=("plain", "padded", "commas", "units")):
    """Draw the front of names that count: how each begins, in sequence."""
    scale = draw(st.sampled_from([1, 500, 1000, 10**6]))
    values = sorted(draw(st.sets(st.integers(0, 300), min_size=2, max_size=10)))
    word, join, style = draw(st.sampled_from(COUNTERS)), draw(st.sampled_from(JOINS)), draw(st.sampled_from(styles))
    return [f"{word}{join}{spelled(value * scale, style)}" for value in values], style


def decimals(draw, count):
    named = draw(st.sampled_from(["-", "_", "_loss=", "-val_acc=", "_neg_loss=-", "-top1_acc_"]))
    digits = draw(st.integers(1, 5))
    return [f"{named}{draw(st.floats(0, 20)):.{digits}f}" for _ in range(count)]


def decimals_constants_and_suffixes_do_not_hide_a_counter(data):
    fronts, style = data.draw(counted())
    fixed = data.draw(st.sampled_from(["", "run3_", "resnet50-", "7b-", "seed_1-", "2024-01-31_", "v1.2.3-"]))
    tails = decimals(data.draw, len(fronts)) if data.draw(st.booleans()) else [""] * len(fronts)
    suffix = data.draw(st.sampled_from(SUFFIXES))
    names = [f"{fixed}{front}{tail}{suffix}" for front, tail in zip(fronts, tails, strict=True)]
    shuffled = data.draw(st.permutations(names))
    found, refused = in_order_or_refused(shuffled)
    if refused:
        # Without a name that says that it counts, a letter may be no unit.
        assert style == "units"
        assert "may be a unit" in refused
        assert [list(by_pattern(pattern, shuffled).steps) for pattern in proposed(refused)] == [names]
    else:
        assert found == names


def never_wrong(names, data):
    """Assert that names in sequence are put in it or refused, and that what is proposed works."""
    shuffled = data.draw(st.permutations(names))
    found, refused = in_order_or_refused(shuffled)
    assert refused or found == names
    for pattern in proposed(refused):
        assert len(by_pattern(pattern, shuffled).steps) > 1


WORDS = ["", "_", "-", "_acc", "-seed", "_x", "-run_", "-part", "=", "-tokens", "_b"]


def further_integers_never_mislead(data):
    fronts, _ = data.draw(counted(("plain", "padded", "commas", "units", "lines")))
    joins = [
        data.draw(st.sampled_from([*JOINS[1:], "_"])) + word
        for word in data.draw(st.lists(st.sampled_from(WORDS), max_size=2))
    ]
    further = [[data.draw(st.integers(0, 120)) for _ in joins] for _ in fronts]
    names = [
        front + "".join(f"{join}{value}" for join, value in zip(joins, values, strict=True))
        for front, values in zip(fronts, further, strict=True)
    ]
    never_wrong(names, data)


def parts_of_a_run_are_never_mixed(data):
    """Stages, and epochs in which the step is counted anew: the outer number first, then the inner one."""
    outer = data.draw(
        st.sampled_from(["stage", "phase_", "part", "epoch=", "e", "", "run", "cycle-", "stage2-ingredient"])
    )
    inner = data.draw(st.sampled_from(["-step", "_step_", "-", "_", "s", "-batch=", "-iter"]))
    tokens = data.draw(st.booleans())
    steps = [
        sorted(data.draw(st.sets(st.integers(0, 60), min_size=1, max_size=4)))
        for _ in range(data.draw(st.integers(2, 4)))
    ]
    if data.draw(st.booleans()):
        # Parts with names, or of which only the later ones have a number.
        inner = inner if re.search("[a-z]", inner) else "-step"
        labels = data.draw(
            st.sampled_from([("pretrain", "anneal", "tune", "rl"), ("", f"{outer or 'x'}2-", "x3-", "x4-")])
        )
        never_wrong([f"{labels[part]}{inner}{step}" for part, found in enumerate(steps) for step in found], data)
        return
    places = [(part, step) for part, counted_anew in enumerate(steps, start=1) for step in counted_anew]
    never_wrong(
        [f"{outer}{part}{inner}{step}{f'-tokens{step // 4}B' if tokens else ''}" for part, step in places], data
    )


def two_schemes_are_never_mixed(data):
    """As fairseq writes them: within an epoch its number and that of the update, at its end its number alone."""
    word, join = data.draw(st.sampled_from(COUNTERS)), data.draw(st.sampled_from(["", "_"]))
    updates = sorted(data.draw(st.sets(st.integers(1, 2000), min_size=2, max_size=8)))
    per_epoch = data.draw(st.integers(1, 800))
    marked = [((update, 0), f"{word}_{update // per_epoch + 1}_{update}.pt") for update in updates]
    ends = [((epoch * per_epoch, 0.5), f"{word}{join}{epoch}.pt") for epoch in range(1, updates[-1] // per_epoch + 2)][
        :20
    ]
    never_wrong([name for _, name in sorted([*marked, *ends])], data)


ANY_NAMES = st.sets(st.one_of(st.text(max_size=30), st.text("0159.,_-=kMeb ab", max_size=12)), min_size=1, max_size=4)


def any_names_are_put_in_order_or_refused(data):
    names = data.draw(ANY_NAMES)
    found, refused = in_order_or_refused(sorted(names))
    if refused:
        assert re.search("order of the checkpoints is unclear|no number in the name|both have", refused)
    else:
        assert set(found) == names


@pytest.mark.parametrize("stray", ["notes[red]7.pt", "old model 3.pt", "features_7.pt"])
def test_of_a_stray_file_it_is_said_first_to_rename_or_move_it(stray):
    names = [f"step_{number}.pt" for number in range(1, 5)]
    with pytest.raises(RegimeError, match="the order of the checkpoints is unclear") as refused:
        ordered_names([*names, stray])
    said = str(refused.value)
    assert f"; rename {stray} like step_1.pt, or move it out of the folder" in said
    assert said.index("rename ") < said.index("--step-pattern")
    # Both, done literally, put all others in order.
    assert list(ordered_names([*names, "step_7.pt"])[0]) == [*names, "step_7.pt"]
    assert list(ordered_names(names)[0]) == names


def test_steps_beside_an_epoch_that_does_not_rise_with_them_may_be_counted_within_it():
    names = ["step10.pt", "step20.pt", "epoch=2-step5.pt", "epoch=2-step15.pt"]
    with pytest.raises(RegimeError, match="2 naming schemes"):
        ordered_names(names)
    rising = ["step=10.ckpt", "epoch=1-step=20.ckpt", "epoch=2-step=30.ckpt"]
    assert list(ordered_names(rising)[0]) == rising


PROPERTIES = [
    decimals_constants_and_suffixes_do_not_hide_a_counter,
    further_integers_never_mislead,
    parts_of_a_run_are_never_mixed,
    two_schemes_are_never_mixed,
    any_names_are_put_in_order_or_refused,
]
each = pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)


@each
@settings(max_examples=30)
@given(data=st.data())
def test_for_names_of_many_kinds(holds, data):
    holds(data)


@pytest.mark.slow
@each
@settings(max_examples=150)
@given(data=st.data())
def test_for_more_names_of_many_kinds(holds, data):
    holds(data)
