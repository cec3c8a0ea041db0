"""What ``--calib`` and ``--eval`` take, as samples that fit a model's inputs.

It runs no model. Files may be hostile: nothing is unpickled, sizes are checked before anything is allocated, and every
failure is an InputError. `open_data` reads every kind of data that a user can name, `random_data` makes some where
there is none, `split` holds samples out, and `overlap` finds evaluation data that was calibrated on.
"""

from modelopt.data.batch_axis import BatchAxes
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.in_memory import MemoryData, open_memory
from modelopt.data.open_data import DEFAULT_RANDOM_SAMPLES, open_data
from modelopt.data.preprocess import Preprocess
from modelopt.data.splits import overlap, split
from modelopt.data.synthetic import DEFAULT_FREE_DIM, random_data
from modelopt.data.user_files import MAX_ARRAY_BYTES

__all__ = [
    "DEFAULT_FREE_DIM",
    "DEFAULT_RANDOM_SAMPLES",
    "MAX_ARRAY_BYTES",
    "BatchAxes",
    "Dataset",
    "MemoryData",
    "Preprocess",
    "Sample",
    "open_data",
    "open_memory",
    "overlap",
    "random_data",
    "split",
]
