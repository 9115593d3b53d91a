"""What is done when a device runs out of memory in the middle of a pass."""

import gc
from collections.abc import Callable

import torch

from gradsim_assets.core.memory import ran_out


def fits_in_memory(compute: Callable[[], None], device: torch.device) -> bool:
    """Computes; False where memory ran out on the way. What the attempt held has been given back then."""
    try:
        compute()
    except Exception as error:
        if not ran_out(error):
            raise
    else:
        return True
    # Behind the except clause: as long as the error is alive, its traceback holds what the attempt held.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return False
