"""The declared versions of what gradients and their projections are: what the gradient tables count by in place of the code.

A gradient pass costs hours of a GPU, and most edits of the engine change what it costs, not what comes out: a gradient is a
mathematical fact of a model and a sample, which the engine meets to rounding or refuses. So its code (see `NUMERICS`) is
not followed for code versions. Whoever changes what comes out by more than rounding raises the number here, and every
table that is made of it is computed again. The numbers of a few small models are kept beside the test that compares them
with what comes out now (`gradsim_assets_tests/core/gradients/test_numerics_version.py`); it fails until the number here is
raised, and the numbers recorded anew.
"""

#: Raise it when products of gradients, or the components that they stand under, come out otherwise than before by more than
#: rounding: another loss, another choice of trainable tensors, other tied weights. Never for what is faster, tidier or logs more.
NUMERICS_VERSION = 1

#: The same of projections alone (their matrices, dimensions, scales): the products stay as they are.
PROJECTIONS_VERSION = 1

#: The same of curvature and of products under it: what F, its damping or Adam's second moments are.
PRECONDITIONERS_VERSION = 1

#: The same of the sketches of the gradient index: their maps, seeds and scales.
SKETCHES_VERSION = 1

#: The code that these versions stand for.
NUMERICS = (
    "core.gradients.engine",
    "core.sample_gradients",
    "core.curvature",
    "core.seeds",  # of projections
)
