"""Progress bars, on the first process's terminal."""

import jax
from tqdm import tqdm


def progress_bar(total: int, description: str, unit: str) -> tqdm:
    """Returns a bar of so many units, with the time that is left."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        unit_scale=unit == "pair",
        disable=jax.process_index() > 0 or None,  # None: where no terminal is
        dynamic_ncols=True,
    )


def advance(bar: tqdm, count: int, before: bool) -> None:
    """Moves a bar on; what was done before this process began tells nothing about its speed."""
    if before and not bar.disable:
        bar.initial += count
        bar.last_print_n += count
        bar.n += count
        bar.refresh()
    else:
        bar.update(count)
