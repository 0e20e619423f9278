"""Ways to break every rule of the format, in a file that is open."""

import h5py
import numpy as np
import trajectories

from regime_proto.schema import layout

SPOILS = {}


def breaks(rule, expected="", **options):
    """Register a way to break `rule`; `expected` is part of what the message says."""

    def register(spoil):
        SPOILS.setdefault(rule, []).append((spoil, expected, options))
        return spoil

    return register


def replaced(file, name, **options):
    """Put another dataset in the place of `name`; attached as the former was."""
    old = file[name]
    data = {"data": old[...]} if "data" not in options and "shape" not in options else {}
    dims = [[scale.name for scale in dim.values()] for dim in old.dims] if not old.is_scale else []
    attributes = {key: value for key, value in old.attrs.items() if key in ("long_name", "units")}
    is_scale = old.is_scale
    users = [
        (other.name, axis)
        for other in file.values()
        if isinstance(other, h5py.Dataset) and is_scale and other.name != old.name
        for axis, dim in enumerate(other.dims)
        if not other.is_scale and old.name in [scale.name for scale in dim.values()]
    ]
    for user, axis in users:
        file[user].dims[axis].detach_scale(old)
    del file[name]
    new = file.create_dataset(name, **{**data, **options})
    new.attrs.update(attributes)
    if is_scale:
        new.make_scale(name)
        for user, axis in users:
            file[user].dims[axis].attach_scale(new)
    for axis, scales in enumerate(dims[: new.ndim]):
        for scale in scales:
            new.dims[axis].attach_scale(file[scale])
    return new


@breaks("link-hard", "a link to another name or file")
def soft_link(file):
    file["alias"] = h5py.SoftLink("/flips")


@breaks("link-hard")
def external_link(file):
    file["extra/other"] = h5py.ExternalLink("/etc/passwd", "/")


@breaks("link-hard")
def instead_of_a_variable(file):
    del file["epoch"]
    file["epoch"] = h5py.SoftLink("/weight_delta_l1")


@breaks("link-single", "another name of an object seen before")
def second_name(file):
    file["copy"] = file["flips"]


@breaks("link-single")
def cycle(file):
    group = file.create_group("extra/deep")
    group["root"] = file["/"]


@breaks("object-kind", "a named type")
def named_type(file):
    file["extra/type"] = np.dtype("f8")


@breaks("object-kind", "fewer than 10,000 objects")
def many_objects(file):
    group = file.create_group("extra")
    for number in range(10_000 - 1 - len(file)):
        group.create_group(str(number))


@breaks("attribute-size")
def large_attribute(file):
    # Where attributes lie apart from their owner, as they may in newer files, they can be of any size.
    group = file.create_group("extra", track_order=True)
    group.attrs["many"] = np.zeros(150_000)


@breaks("attribute-size", "fewer than 1,000 attributes")
def many_attributes(file):
    group = file.create_group("extra", track_order=True)
    for number in range(1_000):
        group.attrs[f"a{number}"] = number


@breaks("attribute-kind", "enum")
def bool_attribute(file):
    file.attrs["fine"] = True


@breaks("attribute-kind", "reference")
def reference_attribute(file):
    file["flips"].attrs["other"] = file["mask"].ref


@breaks("attribute-kind", "compound")
def compound_attribute(file):
    file["flips"].attrs["other"] = np.zeros(2, [("a", "i4"), ("b", "f8")])


@breaks("type-plain", "enum")
def bool_variable(file):
    replaced(file, "valid", data=np.ones(70, bool), chunks=(64,), maxshape=(None,))


@breaks("type-plain", "opaque")
def opaque_variable(file):
    file["extra/opaque"] = np.zeros(3, "V16")


@breaks("type-plain", "float")
def half_precision(file):
    file["extra/half"] = np.zeros(3, np.longdouble)


@breaks("storage-inside", "external storage")
def external_storage(file):
    replaced(file, "epoch", shape=(70,), dtype="f8", external=[("/etc/passwd", 0, 560)])


@breaks("storage-inside", "a virtual dataset")
def virtual_dataset(file):
    virtual = h5py.VirtualLayout((70,), "f8")
    virtual[:] = h5py.VirtualSource("/etc/passwd", "x", (70,))
    del file["epoch"]
    file.create_virtual_dataset("epoch", virtual)


@breaks("filter-known", "filter number 32000")
def plugin_filter(file):
    replaced(file, "epoch", chunks=(64,), maxshape=(None,), compression="lzf")


@breaks("filter-known")
def scale_offset(file):
    replaced(file, "step", chunks=(64,), maxshape=(None,), scaleoffset=0)


@breaks("filter-known", "a filter twice")
def filter_twice(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((64,))
    properties.set_deflate(4)
    properties.set_deflate(4)
    space = h5py.h5s.create_simple((70,), (h5py.h5s.UNLIMITED,))
    file.create_group("extra")
    h5py.h5d.create(file["extra"].id, b"twice", h5py.h5t.NATIVE_DOUBLE, space, properties)


@breaks("size-limit", "chunks of at most")
def huge_chunk(file):
    """A gigabyte of zeros in some kilobytes: the other kind of chunk bomb."""
    shape = (1, 2, 2**26)
    stored = replaced(file, "mask", shape=shape, maxshape=(None, *shape[1:]), chunks=shape, dtype="u1", compression=9)
    stored.id.write_direct_chunk((0, 0, 0), trajectories.zeros(2**27))


@breaks("size-limit", "at most 134,217,728 bytes")
def huge_fixed(file):
    replaced(file, "layer_units", shape=(2**13, 2**13), dtype="i8", chunks=(1024, 1024), compression=9)


@breaks("size-limit", "an entry of at most")
def huge_row(file):
    shape = (1, 3, 2**29)
    replaced(file, "mask", shape=shape, maxshape=(None, *shape[1:]), chunks=(1, 1, 2**20), dtype="u1", compression=9)


@breaks("chunk-count", "chunks")
def declared_but_not_there(file):
    """Sixteen gigabytes declared in nothing."""
    for variable in layout.VARIABLES:
        if variable.grows and variable.dims[0] == layout.STEP:
            file[variable.name].resize(2**31 // 8, axis=0)


@breaks("chunk-count", "bytes, found 0")
def contiguous_but_not_there(file):
    del file["layer_size"]
    file.create_dataset("layer_size", shape=(2,), dtype="i8")


@breaks("chunk-stored")
def padded_chunk(file):
    stored = file["flips"]
    content = stored.id.read_direct_chunk((0, 0, 0))[1]
    stored.id.write_direct_chunk((0, 0, 0), content + bytes(100_000))


@breaks("chunk-inflated", "found more")
def bomb(file):
    """A chunk that inflates to far more than it declares, without being larger than it may be."""
    shape = (1, 3, 2**20)
    stored = replaced(
        file, "mask", shape=shape, maxshape=(None, *shape[1:]), chunks=(1, 1, 2**20), dtype="u1", compression=9
    )
    content = trajectories.zeros(2**29)
    for sample in range(3):
        stored.id.write_direct_chunk((0, sample, 0), content)


@breaks("chunk-inflated")
def garbage(file):
    shape = (1, 3, 2**20)
    stored = replaced(
        file, "mask", shape=shape, maxshape=(None, *shape[1:]), chunks=(1, 1, 2**20), dtype="u1", compression=9
    )
    for sample in range(3):
        stored.id.write_direct_chunk((0, sample, 0), b"garbage" * 100_000)


@breaks("version-present", "not a trajectory")
def no_version(file):
    del file.attrs["regime_version"]


@breaks("version-present")
def odd_version(file):
    file.attrs["regime_version"] = "one"


@breaks("version-major", "found 2.0")
def next_major(file):
    file.attrs["regime_version"] = "2.0"


@breaks("version-minor", "found 1.7: new names are not read")
def next_minor(file):
    file.attrs["regime_version"] = "1.7"


@breaks("attribute-present")
def no_step_kind(file):
    del file.attrs["step_kind"]


@breaks("attribute-type", "a single string of variable length, found 3")
def number_for_text(file):
    file.attrs["run_id"] = 3


@breaks("attribute-type")
def text_for_number(file):
    file.attrs["noise_floor"] = "none"


@breaks("attribute-type")
def several_numbers(file):
    file.attrs["noise_floor"] = np.zeros(2)


@breaks("attribute-choice", "step or epoch or ordinal")
def unknown_step_kind(file):
    file.attrs["step_kind"] = "hour"


@breaks("attribute-time", "found 'yesterday'")
def no_time(file):
    file.attrs["created"] = "yesterday"


@breaks("attribute-time")
def no_zone(file):
    file.attrs["created"] = "2026-01-31T12:00:00"


@breaks("attribute-type", "found b'me'")
def fixed_string(file):
    file.attrs["software"] = np.bytes_(b"me")


@breaks("variable-present", "a variable over (step, layer, sample)")
def no_flips(file):
    del file["flips"]


@breaks("variable-present")
def group_for_variable(file):
    del file["flips"]
    file.create_group("flips")


@breaks("variable-group", sampled=True)
def half_a_group(file):
    del file["flip_fraction_error"]


@breaks("variable-dims", "found 2 dimensions")
def flat_flips(file):
    replaced(file, "flips", data=np.zeros((70, 2), "u4"), chunks=(64, 2), maxshape=(None, 2))


@breaks("variable-type", "expected i8, found float64")
def nan_steps(file):
    replaced(file, "step", data=np.append(np.arange(69.0), np.nan), chunks=(64,), maxshape=(None,))


@breaks("variable-type", "expected str")
def numbers_for_names(file):
    replaced(file, "tensor", data=np.arange(2))


@breaks("variable-fill")
def fill_value(file):
    file["mask"].attrs["_FillValue"] = np.uint8(255)


@breaks("variable-decoded", "no attribute that changes values")
def missing_value(file):
    file["step"].attrs["missing_value"] = 0


@breaks("variable-decoded", "expected '1', found 'days since 2000-01-01'")
def unit_of_time(file):
    file["epoch"].attrs["units"] = "days since 2000-01-01"


@breaks("quantity-dims", "(step) or (step, tensor)")
def quantity_over_planes(file):
    quantity = file.create_dataset("quantity_mine", data=np.zeros((70, 2)), maxshape=(None, 2))
    said = ("long_name", "units", "against", "definition", "curve")
    quantity.attrs.update({name: file["quantity_of_layer"].attrs[name] for name in said})
    for axis, name in enumerate(("step", "plane")):
        quantity.dims[axis].attach_scale(file[name])


@breaks("quantity-dims")
def quantity_that_is_attached_to_nothing(file):
    quantity = file["quantity_of_tensor"]
    quantity.dims[1].detach_scale(file["tensor"])


@breaks("quantity-says", "one of an empty string, previous, first, last")
def quantity_against_something_else(file):
    file["quantity_of_layer"].attrs["against"] = "median"


@breaks("quantity-says", "a formula")
def quantity_without_definition(file):
    del file["quantity_of_layer"].attrs["definition"]


@breaks("variable-decoded", "a unit that is not decoded as a time")
def quantity_in_days(file):
    file["quantity_of"].attrs["units"] = "days"


@breaks("first-row", "NaN in the first row")
def quantity_against_nothing(file):
    file["quantity_of_layer"][0] = 0.5


@breaks("variable-label", "expected a string, found none")
def no_unit(file):
    del file["flips"].attrs["units"]


@breaks("dimension-length", "expected 70 along step, as in step, found 40")
def torn(file):
    file["flips"].resize(40, axis=0)


@breaks("dimension-empty")
def no_tensors(file):
    file["weight_delta_l1"].resize(0, axis=0)
    for name in ("tensor", "tensor_size", "weight_delta_l1", "weight_delta_l2", "weight_distance_l2"):
        stored = file[name]
        shape = (70, 0) if stored.ndim == 2 else (0,)
        replaced(
            file, name, shape=shape, dtype=stored.dtype, maxshape=(None,) * stored.ndim, chunks=(64, 1)[: stored.ndim]
        )


@breaks("dimension-scale")
def detached(file):
    file["flips"].dims[1].detach_scale(file["layer"])


@breaks("dimension-scale", "This is a netCDF dimension but not a netCDF variable")
def unmarked_dimension(file):
    file["byte"].attrs["NAME"] = np.bytes_(b"byte")


@breaks("dimension-scale")
def attached_to_another(file):
    file["flips"].dims[1].detach_scale(file["layer"])
    file["flips"].dims[1].attach_scale(file["tensor"])


@breaks("dimension-unlimited")
def limited(file):
    replaced(file, "epoch", chunks=(64,))


@breaks("name-known", "/notes")
def stranger(file):
    file["notes"] = [1, 2, 3]


@breaks("name-known", "/@notes")
def strange_attribute(file):
    file.attrs["notes"] = "hello"


@breaks("step-some")
def empty(file):
    for name in file:
        if file[name].maxshape and file[name].maxshape[0] is None:
            file[name].resize(0, axis=0)


@breaks("step-order", "found 3 after 40")
def decreasing(file):
    file["step"][5] = 3


@breaks("mask-step", "/mask_step: expected values of step, found 5")
def mask_of_no_step(file):
    file["mask_step"][0] = -5
    file["mask_step"][0] = 5


@breaks("mask-step")
def masks_out_of_order(file):
    file["mask_step"][1] = 0


@breaks("mask-policy", "70 steps, as mask_policy all says")
def masks_left_out(file):
    for name in ("mask_step", "mask"):
        file[name].resize(60, axis=0)


@breaks("mask-policy")
def odd_policy(file):
    file.attrs["mask_policy"] = "some"


@breaks("valid-value")
def half_valid(file):
    file["valid"][3] = 2


@breaks("name-unique")
def same_name_twice(file):
    file["layer"][1] = "first"


@breaks("name-unique", "UTF-8")
def not_unicode(file):
    file["tensor"][1] = b"\xff\xfe"


@breaks("layer-kind", "'cubic'")
def unknown_kind(file):
    file["layer_kind"][0] = "cubic"


@breaks("layer-size")
def no_planes(file):
    file["layer_planes"][0] = 0


@breaks("layer-size")
def negative_tensor(file):
    file["tensor_size"][0] = -1


@breaks("layer-threshold")
def falling_thresholds(file):
    file["layer_threshold"][1] = [6.0, 0.0]


@breaks("layer-threshold")
def threshold_of_no_plane(file):
    file["layer_threshold"][0] = [0.0, 1.0]


@breaks("layer-units")
def more_than_all(file):
    file["layer_units"][0, 0] = 14


@breaks("layer-bytes")
def overlapping(file):
    file["layer_byte_start"][1] = 1


@breaks("layer-bytes")
def wider(file):
    file["layer_size"][0] = 17


@breaks("unit-index", sampled=True)
def unsorted_units(file):
    file["unit_index"][0, :5] = [0, 3, 2, 7, 12]


@breaks("unit-index", sampled=True)
def unit_out_of_range(file):
    file["unit_index"][0, 4] = 13


@breaks("first-row", "0 in the first row")
def first_flips(file):
    file["flips"][0, 0, 0] = 1


@breaks("first-row", "NaN in the first row")
def first_delta(file):
    file["weight_delta_l1"][0] = 0


@breaks("delta-value", "others in row 7")
def negative_delta(file):
    file["weight_delta_l2"][7, 1] = -1


@breaks("delta-value", "others in row 69")
def nan_delta(file):
    file["weight_delta_l1"][69, 1] = np.nan


@breaks("flips-bound", "more in row 66")
def too_many_flips(file):
    file["flips"][66, 0, 2] = 14


@breaks("mask-padding", "row 8, sample 1")
def padding_set(file):
    file["mask"][8, 1, 1] |= 1


@breaks("mask-flips", "row 65")
def wrong_flips(file):
    file["flips"][65, 1, 2] = 0


@breaks("embedded-digest")
def other_program(file):
    file["program"][0] ^= 1
