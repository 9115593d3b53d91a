"""What a device is fast and slow at: the figures that plans and products go by."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class DeviceProfile:
    """Rates of one device at one precision, and the sizes that suit it."""

    #: FLOP per second of forward and backward passes; a multiplication and an addition count two.
    pass_rate: float
    #: FLOP per second of products of factors, and of gradients as they are formed.
    product_rate: float
    #: Bytes of device memory that are read or written in a second.
    bytes_per_second: float
    #: Seconds from the call of one operation to that of the next, whatever they do.
    launch_seconds: float
    #: Rows of a sample's factors are filled up with zeros to a multiple of this: kernels want aligned rows.
    row_multiple: int
    #: Bytes of intermediate results (products of token vectors, gathered factors) that are made at a time.
    work_bytes: int
    #: Padded tokens that a batch may have: the largest of these that fits. More make no product faster.
    batch_tokens: tuple[int, ...]
    #: What a batch costs beside its tokens, as a number of tokens: the calls of its operations.
    batch_overhead_tokens: int
    #: Originals whose formed gradients meet the held ones at a time: with more columns no product is faster.
    tile: int
    #: Products of formed gradients are taken as a grid where that is at most so many times as many as are wanted.
    grid_advantage: float
    #: Bytes that come from the host's memory, or go there, in a second; None where the host's memory is the device's.
    host_bytes_per_second: float | None = None


#: Two cores of a server.
CPU = DeviceProfile(
    pass_rate=50e9,
    product_rate=100e9,
    bytes_per_second=25e9,
    launch_seconds=3e-6,
    row_multiple=1,
    work_bytes=2**25,
    batch_tokens=(512,),
    batch_overhead_tokens=24,
    tile=16,
    grid_advantage=6,  # a matrix product makes so many in the time that reading two gradients takes
)

#: An H100 in strict fp32, as measured.
CUDA = DeviceProfile(
    pass_rate=38e12,
    product_rate=42e12,
    bytes_per_second=2.5e12,
    launch_seconds=8e-6,
    row_multiple=64,
    work_bytes=2**30,
    batch_tokens=(4096, 2048, 1024, 512),
    batch_overhead_tokens=128,
    tile=64,
    grid_advantage=float("inf"),  # rather useless work than a kernel for each pair
    host_bytes_per_second=50e9,  # what PCIe 5 is said to reach from pinned memory; not measured
)

#: The same with TF32, as measured, and with bf16 weights, which is an estimate.
CUDA_TF32 = replace(CUDA, pass_rate=140e12, product_rate=200e12, batch_overhead_tokens=400)
CUDA_BF16 = replace(CUDA, pass_rate=300e12, product_rate=350e12, batch_overhead_tokens=800)


def profile_of(
    device: torch.device | str, dtype: torch.dtype = torch.float32, precision: str = "fp32"
) -> DeviceProfile:
    """The profile of a kind of device where nothing was measured."""
    if torch.device(device).type != "cuda":
        return CPU
    if dtype in (torch.bfloat16, torch.float16):
        return CUDA_BF16
    return CUDA_TF32 if precision == "tf32" else CUDA
