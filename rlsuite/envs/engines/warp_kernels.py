"""Kernels of our own for the engine `warp`."""

# mypy: ignore-errors
# Warp compiles these functions from their source; to Python's own types they are no valid code.

import warp as wp

PLANE = wp.constant(0)  # mjGEOM_PLANE
CAPSULE = wp.constant(3)  # mjGEOM_CAPSULE
UPRIGHT = wp.constant(1e-6)  # below this length the axis has no direction in the plane, float32


@wp.kernel
def copy_rows(
    mask: wp.array[wp.bool],
    source: wp.array2d[wp.float32],
    target: wp.array2d[wp.float32],
) -> None:
    """Copy the rows of `mask`."""
    env, column = wp.tid()
    if mask[env]:
        target[env, column] = source[env, column]


@wp.kernel
def align_capsules(
    geom_type: wp.array[wp.int32],
    geom_xmat: wp.array2d[wp.mat33],
    contacts: wp.array[wp.int32],
    geoms: wp.array[wp.vec2i],
    envs: wp.array[wp.int32],
    frames: wp.array[wp.mat33],
) -> None:
    """Turn the friction directions of capsules on planes towards the capsule's axis, as the C engine does.

    MuJoCo Warp 3.17 leaves out capsules within 30 degrees of the plane's normal.
    """
    contact = wp.tid()
    if contact >= contacts[0]:
        return
    pair = geoms[contact]
    if pair[0] < 0 or pair[1] < 0:  # a flexible body
        return
    if geom_type[pair[0]] != PLANE or geom_type[pair[1]] != CAPSULE:
        return
    pose = geom_xmat[envs[contact], pair[1]]
    axis = wp.vec3(pose[0, 2], pose[1, 2], pose[2, 2])
    frame = frames[contact]
    normal = wp.vec3(frame[0, 0], frame[0, 1], frame[0, 2])
    along = axis - normal * wp.dot(normal, axis)
    length = wp.length(along)
    if length < UPRIGHT:
        return
    along = along / length
    across = wp.cross(normal, along)
    frames[contact] = wp.matrix_from_rows(normal, along, across)
